-- What a hub without batches writes: the columns, keys, indexes and storage of our own tables, in a schema apart.
create schema {scratch};
create table {scratch}.notifications (like {notification_hub}.notifications including all);
create table {scratch}.deliveries (like {notification_hub}.deliveries including all)
    with (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_cost_delay = 0);
