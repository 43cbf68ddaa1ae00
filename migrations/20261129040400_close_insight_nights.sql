-- Remember until which night an organisation's insights are made, so that the rest of the day does not look for all of them every minute.
--
-- Locks:   insight_settings exclusively, for the moment that adding a column with a constant default and exchanging triggers takes.
-- Rollout: expand; deployed functions close no night, and find what is due as before.
-- Undo:    create or replace app.due_insights as 20261121004230 has it, drop app.close_insight_nights, the column, its index and trigger,
--          and make the audit and touch triggers as 20261121004210 does.

set local role spine_owner;

alter table public.insight_settings add column made_until date not null default '-infinity';
comment on column public.insight_settings.made_until is 'The last day, UTC, on which nothing of the night was missing any more.';
create index insight_settings_made_until_idx on public.insight_settings (made_until) where nightly;

-- That the system has made them is no news and no change of the settings.
drop trigger insight_settings_audit_insert on public.insight_settings;
drop trigger insight_settings_audit_update on public.insight_settings;
drop trigger insight_settings_audit_delete on public.insight_settings;
call app.audit_table('insight_settings', 'org_id', 'nightly,tables,periods', 'people');
drop trigger insight_settings_touch on public.insight_settings;
create trigger insight_settings_touch before update of nightly, tables, periods on public.insight_settings
    for each row execute function app.touch_updated_at();

create policy insight_settings_definer_update on public.insight_settings for update to spine_definer using (true) with check (true);
grant update (made_until) on public.insight_settings to spine_definer;

reset role;
set local role spine_definer;

-- What is wanted from now on is due today.
create function app.reopen_insight_night() returns trigger language plpgsql set search_path = '' as $$
begin
    new.made_until := '-infinity';
    return new;
end
$$;
comment on function app.reopen_insight_night() is 'Has the night''s insights looked for again when other ones are wanted.';
grant execute on function app.reopen_insight_night() to spine_owner;

-- Insights of the periods that ended before `p_now` that are not there yet: one look into the index for each, however long the history
-- is. Like the next without settings of its own, so that it becomes a part of the statement that asks it.
create function app.missing_insights(p_org uuid, p_tables text[], p_periods text[], p_now timestamptz)
    returns table (table_name text, period text, whole text)
    language sql stable as $$
    select f.table_name, p.period, f.whole
      from unnest(p_periods) p (period)
      join app.insight_sources() f on f.table_name = any (p_tables)
     where (select i.id from public.ai_insights i
             where i.org_id = p_org and i.table_name = f.table_name and i.period = p.period and i.audience = f.whole
               and i.user_id is null and i.figures_digest is not null
               and i.period_start = date_subtract(date_trunc(p.period, p_now, 'UTC'), ('1 ' || p.period)::interval, 'UTC')
             limit 1) is null
$$;

-- Whether it is the organisation's minute of the night, or past it.
create function app.insight_night_begun(p_org uuid, p_now timestamptz) returns boolean
    language sql stable as $$
    select extract(hour from p_now at time zone 'UTC') * 60 + extract(minute from p_now at time zone 'UTC')
           >= (app.setting('insights.nightly_from') #>> '{}')::integer + app.insight_minute(p_org)
$$;

-- Nightly insights that are not there yet, ids and names only. An organisation has its minute of the hour that an operator set, by its
-- id, so that they do not all come at once; each gets a share of the page. They are for everybody who sees the whole table: what one
-- person sees of it is computed when they ask.
create or replace function app.due_insights(p_now timestamptz, p_most integer)
    returns table (org_id uuid, table_name text, period text, audience text)
    language sql stable security definer set search_path = '' as $$
    select d.org_id, d.table_name, d.period, d.whole
      from (select s.org_id, m.table_name, m.period, m.whole,
                   row_number() over (partition by s.org_id order by m.period, m.table_name) as place
              from public.insight_settings s
             cross join lateral app.missing_insights(s.org_id, s.tables, s.periods, p_now) m
             where s.nightly and s.made_until < (p_now at time zone 'UTC')::date and app.insight_night_begun(s.org_id, p_now)) d
     order by d.place, d.org_id limit least(p_most, 1000)
$$;

-- Closes nights in which nothing is missing any more. How many.
create function app.close_insight_nights(p_now timestamptz) returns integer
    language sql volatile security definer set search_path = '' as $$
    with closed as (
        update public.insight_settings s set made_until = (p_now at time zone 'UTC')::date
         where s.nightly and s.made_until < (p_now at time zone 'UTC')::date and app.insight_night_begun(s.org_id, p_now)
           and not exists (select from app.missing_insights(s.org_id, s.tables, s.periods, p_now))
        returning 1
    )
    select count(*)::integer from closed
$$;
comment on function app.close_insight_nights(timestamptz) is 'Has organisations whose night''s insights are all there left alone until the next night.';
grant execute on function app.close_insight_nights(timestamptz) to spine_service;

reset role;
set local role spine_owner;

create trigger insight_settings_reopen before update of nightly, tables, periods on public.insight_settings
    for each row execute function app.reopen_insight_night();

reset role;
