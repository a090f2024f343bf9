drop table point_holds, point_entries, point_transfers, point;
drop function refuse_imbalance, refuse_change;
