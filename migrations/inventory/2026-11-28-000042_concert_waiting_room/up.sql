-- Seats of the concert are had with a pass of a sale event's waiting room only: before such a sale is open, nobody has any.
alter table concert add column queue_manage_required boolean not null default false;
