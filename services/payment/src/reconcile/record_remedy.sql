-- $1 finding
-- $2 what was done
-- $3 what the provider said if it refused
update reconciliation_findings
set action = $2,
    detail = concat_ws(' The provider: ', detail, $3::text)
where id = $1
