select
    (select count(*) from {order}.orders_archive) as archived,
    (select count(*) from {order}.orders join {order}.orders_archive using (id)) as in_both
