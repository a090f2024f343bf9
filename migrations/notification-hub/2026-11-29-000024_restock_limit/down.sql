drop table restock_limit;
