drop table admissions;
drop table ended_passes;
drop table lobby;
drop table rooms;
