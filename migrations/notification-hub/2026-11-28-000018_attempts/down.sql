drop table delivery_attempts;
