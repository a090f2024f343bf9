alter table rooms drop column raised_at, drop column back_seqs, drop column offered_seqs;
