alter table rooms drop column let_in;
