drop index holds_of_user;
create index holds_of_user on holds (user_id) where state in ('HELD', 'PINNED', 'CONFIRMED');
