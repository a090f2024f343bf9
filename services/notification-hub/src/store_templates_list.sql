-- The texts that administrators have written, by name, channel and language.
-- $1: only texts behind this name,
-- $2: channel
-- $3: and language
-- $4: how many at most
select
    template.name,
    template.channel,
    template.language,
    coalesce(max(template.version) filter (where template.is_active), 0) as active,
    max(template.version) as newest
from notification_templates as template
where (template.name collate "C", template.channel collate "C", template.language collate "C") > ($1, $2, $3)
group by template.name, template.channel, template.language
order by template.name collate "C", template.channel collate "C", template.language collate "C"
limit $4
