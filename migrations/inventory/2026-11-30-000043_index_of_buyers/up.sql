-- The sweeper looks for HELD holds by their time. HELD is among the states of this index too, so PostgreSQL could search it
-- from one end to the other instead: it does when its statistics are older than a sale, and then each look reads every living
-- hold. A condition on the user, which only searches by user have, keeps the index to those.
--
-- Built without `concurrently`: nothing is released yet.
drop index holds_of_user;
create index holds_of_user on holds (user_id) where state in ('HELD', 'PINNED', 'CONFIRMED') and user_id is not null;
