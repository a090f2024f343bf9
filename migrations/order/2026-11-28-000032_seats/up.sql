-- The labels of the seats that a line buys; empty for plain units.
alter table order_items add column seats text[] not null default '{}';
