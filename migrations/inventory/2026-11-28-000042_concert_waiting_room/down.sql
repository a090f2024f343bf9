alter table concert drop column queue_manage_required;
