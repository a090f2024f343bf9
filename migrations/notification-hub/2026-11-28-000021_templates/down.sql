alter table product_user_notification_history
    alter constraint product_user_notification_history_notification_id_fkey not deferrable;
alter table deliveries drop column is_markup;
alter table notification_preferences drop column language;
drop table notification_templates;
