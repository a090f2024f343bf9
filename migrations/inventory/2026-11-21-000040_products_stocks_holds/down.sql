drop view stock_movements;
drop table product_stock_audit, hold_lines, holds, stocks, catalogue, products;
