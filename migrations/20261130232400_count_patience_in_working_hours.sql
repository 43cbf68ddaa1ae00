-- Count patience with leads in working hours, and give the open leads of absent people to others at once.
--
-- Locks:   lead_assignment_settings exclusively, while columns with constant defaults and a check are added, its few rows changed and its
--          audit triggers exchanged; lead_assignments exclusively, for the moment that exchanging a check takes, which then reads its rows
--          while they can be read and written.
-- Rollout: expand. patience_hours were hours of the clock and are hours of work: each day of them is now one of nine hours, as default
--          working days are, so that two days (48) stay two days (18). Deployed functions set none of what is new.
-- Undo:    create or replace app.leads_to_assign as 20261129040200 has it, app.configure_lead_assignment, app.dry_run_leads and
--          app.lead_assignment_settings_of as 20261121004030; set patience_hours to 24 for each 9; drop the columns and the functions made
--          here; make the audit triggers as 20261121004000 does.

set local role spine_owner;

alter table public.lead_assignment_settings
    add column work_days  smallint[] not null default '{1,2,3,4,5}',
    add column work_from  time       not null default '08:00',
    add column work_until time       not null default '17:00',
    alter column patience_hours set default 18;
alter table public.lead_assignment_settings add constraint lead_assignment_settings_work_check
    check (cardinality(work_days) between 1 and 7 and work_days <@ '{1,2,3,4,5,6,7}' and work_until - work_from >= interval '1 hour') not valid;
alter table public.lead_assignment_settings validate constraint lead_assignment_settings_work_check;
comment on column public.lead_assignment_settings.patience_hours is
    'How many working hours a lead may lie with somebody untouched before it is given to another.';
comment on column public.lead_assignment_settings.work_days is 'The days of the week on which people work, 1 is Monday and 7 is Sunday.';
comment on column public.lead_assignment_settings.work_from is 'When work begins on those days, in the organisation''s time zone.';
comment on column public.lead_assignment_settings.work_until is 'When it ends, on the same day; 24:00 is midnight.';

drop trigger lead_assignment_settings_audit_insert on public.lead_assignment_settings;
drop trigger lead_assignment_settings_audit_update on public.lead_assignment_settings;
drop trigger lead_assignment_settings_audit_delete on public.lead_assignment_settings;
alter table public.lead_assignment_settings no force row level security;
update public.lead_assignment_settings set patience_hours = ceil(patience_hours * 9 / 24.0);
alter table public.lead_assignment_settings force row level security;
call app.audit_table('lead_assignment_settings', 'org_id',
                     'enabled,min_auc,max_brier,min_outcomes,ai_bound,patience_hours,work_days,work_from,work_until', 'people');

alter table public.lead_assignments drop constraint lead_assignments_end_reason_check;
alter table public.lead_assignments add constraint lead_assignments_end_reason_check
    check (end_reason in ('left', 'absent', 'over_capacity', 'waited')) not valid;
alter table public.lead_assignments validate constraint lead_assignments_end_reason_check;

reset role;
set local role spine_definer;

-- The latest instant since which so many hours of work have passed: what happened at it or before has lain for that long. Time is what
-- clocks measure, so that a shift over a clock change is an hour shorter or longer.
create function app.working_time_before(p_now timestamptz, p_hours integer, p_zone text, p_days smallint[], p_from time, p_until time)
    returns timestamptz language plpgsql immutable strict set search_path = '' as $$
declare
    v_left  interval := make_interval(hours => p_hours);
    -- No zone's date is more than one ahead of its neighbour's.
    v_day   date := (p_now at time zone p_zone)::date + 1;
    v_until timestamptz := p_now;
    v_start timestamptz;
    v_end   timestamptz;
begin
    if cardinality(p_days) = 0 or not p_days <@ '{1,2,3,4,5,6,7}' or p_until - p_from < interval '1 hour' or p_hours not between 0 and 10000 then
        raise exception 'these are no working hours' using errcode = 'invalid_parameter_value';
    end if;
    loop
        if extract(isodow from v_day) = any (p_days) then
            v_start := (v_day + p_from) at time zone p_zone;
            -- Where a date is skipped, its hours are those of the next, which were counted.
            v_end := least((v_day + p_until) at time zone p_zone, v_until);
            if v_end > v_start then
                if v_end - v_start >= v_left then
                    return v_end - v_left;
                end if;
                v_left := v_left - (v_end - v_start);
                v_until := v_start;
            end if;
        end if;
        v_day := v_day - 1;
    end loop;
end
$$;
comment on function app.working_time_before(timestamptz, integer, text, smallint[], time, time) is
    'The latest instant since which so many working hours have passed in a time zone.';

-- What holds where an organisation has set nothing.
create function app.default_lead_settings(p_org uuid) returns public.lead_assignment_settings
    language sql stable set search_path = '' as $$
    select row(p_org, false, 0.6, 0.25, 20, 10, 18, null, null, null, now(), '{1,2,3,4,5}', '08:00', '17:00')::public.lead_assignment_settings
$$;
comment on function app.default_lead_settings(uuid) is 'How leads are assigned where an organisation has set nothing.';

create or replace function app.lead_assignment_settings_of(p_org uuid) returns jsonb language sql stable set search_path = '' as $$
    select coalesce((select to_jsonb(s) - 'org_id' from public.lead_assignment_settings s where s.org_id = p_org),
                    '{"enabled": false, "ai_bound": 0, "min_auc": null, "max_brier": null, "min_outcomes": null, "patience_hours": null,
                      "work_days": null, "work_from": null, "work_until": null}')
$$;

-- Open leads that somebody is to be found for, and why: nobody has them, or their person is absent, or has more than they take (the
-- latest given go first), or has let them lie. Of the whole organisation, in one pass; or of one lead. `p_patience` in working hours,
-- where the organisation set none.
create or replace function app.leads_to_assign(p_org uuid, p_lead uuid, p_patience integer default null)
    returns table (lead_id uuid, why text)
    language sql stable set search_path = '' as $$
    with patience as materialized (
        select app.working_time_before(now(), coalesce(s.patience_hours, p_patience), o.time_zone, coalesce(s.work_days, d.work_days),
                                       coalesce(s.work_from, d.work_from), coalesce(s.work_until, d.work_until)) as since
          from public.organizations o
         cross join app.default_lead_settings(p_org) d
          left join public.lead_assignment_settings s on s.org_id = o.id
         where o.id = p_org
    ),
    -- Of the two, the one that was asked for is run.
    placed as (
        select l.id, l.assigned_to, greatest(l.assigned_at, l.updated_at) as touched,
               row_number() over (partition by l.assigned_to order by coalesce(l.assigned_at, l.created_at), l.id) as place
          from public.leads l where p_lead is null and l.org_id = p_org and l.status not in ('won', 'lost')
        union all
        select l.id, l.assigned_to, greatest(l.assigned_at, l.updated_at),
               -- No further than what they take: beyond that it is too many, however many.
               1 + (select count(*)
                      from (select from public.leads o
                             where o.org_id = l.org_id and o.assigned_to = l.assigned_to and o.status not in ('won', 'lost')
                               and (coalesce(o.assigned_at, o.created_at), o.id) < (coalesce(l.assigned_at, l.created_at), l.id)
                             limit (select c.max_open from public.lead_capacity c where c.org_id = l.org_id and c.user_id = l.assigned_to)) earlier)
          from public.leads l where l.org_id = p_org and l.id = p_lead and l.status not in ('won', 'lost')
    )
    select x.id, x.why
      from (select p.id, case
                       when p.assigned_to is null then 'unassigned'
                       when not c.available then 'absent'
                       when p.place > c.max_open then 'over_capacity'
                       -- Untouched for so long: whatever people change of a lead moves updated_at.
                       when p.touched <= t.since
                            and p.id not in (select n.lead_id from public.lead_notes n
                                              where n.org_id = p_org and n.created_at > (select since from patience)
                                                and (p_lead is null or n.lead_id = p_lead)) then 'waited'
                   end as why
              from placed p cross join patience t
              left join public.lead_capacity c on c.org_id = p_org and c.user_id = p.assigned_to) x
     where x.why is not null
$$;

-- Sets what `p_wanted` names and leaves the rest: {"enabled","min_auc","max_brier","min_outcomes","ai_bound","patience_hours",
-- "work_days","work_from","work_until"}. Switching on is refused, and nothing changed, while the scores fall short of the floors that would then hold.
create or replace function app.configure_lead_assignment(p_wanted jsonb) returns jsonb
    language plpgsql volatile security definer set search_path = '' as $$
declare
    v_org    uuid := app.managing_leads_org();
    v_was    public.lead_assignment_settings;
    s        public.lead_assignment_settings;
    v_report jsonb;
    v_missed jsonb;
begin
    perform pg_advisory_xact_lock(hashtextextended('spine.leads ' || v_org, 0));
    select * into v_was from public.lead_assignment_settings x where x.org_id = v_org;
    if not found then
        v_was := app.default_lead_settings(v_org);
    end if;
    s := jsonb_populate_record(v_was, p_wanted - array['org_id', 'checked_at', 'stopped_at', 'stop_reason', 'updated_at']);
    if s.work_until - s.work_from < interval '1 hour' then
        return jsonb_build_object('refused', jsonb_build_object(
            'code', 'work_hours_invalid', 'detail', 'work_until must be an hour or more after work_from, on the same day.'));
    end if;
    if s.enabled and (not v_was.enabled
                      or (s.min_auc, s.max_brier, s.min_outcomes) is distinct from (v_was.min_auc, v_was.max_brier, v_was.min_outcomes)) then
        v_report := app.lead_score_report(v_org);
        v_missed := app.lead_floor_missed(v_report, s.min_auc, s.max_brier, s.min_outcomes);
        if v_missed is not null then
            return jsonb_build_object('refused', v_missed, 'report', v_report);
        end if;
        s.checked_at := now();
        s.stopped_at := null;
        s.stop_reason := null;
    end if;
    insert into public.lead_assignment_settings as x
        (org_id, enabled, min_auc, max_brier, min_outcomes, ai_bound, patience_hours, work_days, work_from, work_until,
         checked_at, stopped_at, stop_reason)
    values (v_org, s.enabled, s.min_auc, s.max_brier, s.min_outcomes, s.ai_bound, s.patience_hours, s.work_days, s.work_from, s.work_until,
            s.checked_at, s.stopped_at, s.stop_reason)
    on conflict (org_id) do update
       set enabled = excluded.enabled, min_auc = excluded.min_auc, max_brier = excluded.max_brier, min_outcomes = excluded.min_outcomes,
           ai_bound = excluded.ai_bound, patience_hours = excluded.patience_hours,
           work_days = excluded.work_days, work_from = excluded.work_from, work_until = excluded.work_until, checked_at = excluded.checked_at,
           stopped_at = excluded.stopped_at, stop_reason = excluded.stop_reason;
    return jsonb_build_object('settings', app.lead_assignment_settings_of(v_org));
end
$$;

-- Who would have been given the leads that came since `p_since`, had they been assigned as they came: by what was known then, to people
-- as they are now, each with the open leads they had besides. And how many leads would be given to another at once. Writes nothing.
create or replace function app.dry_run_leads(p_since timestamptz, p_most integer) returns jsonb
    language plpgsql stable security definer set search_path = '' as $$
declare
    v_org    uuid := app.managing_leads_org();
    l        record;
    v_load   jsonb;
    v_score  numeric;
    v_people jsonb;
    v_best   jsonb;
    -- Who has what from when until when: what was open at the beginning (since ever), and what was given so far.
    v_users  uuid[];
    v_from   timestamptz[];
    v_until  timestamptz[];
    v_given  uuid[] := '{}';
    v_told   jsonb := '[]';
begin
    select coalesce(array_agg(o.assigned_to), '{}'), coalesce(array_agg('-infinity'::timestamptz), '{}'), coalesce(array_agg(o.closed_at), '{}')
      into v_users, v_from, v_until
      from public.leads o
     where o.org_id = v_org and o.created_at < p_since and o.assigned_to is not null and (o.closed_at is null or o.closed_at > p_since);
    for l in
        select x.id, x.created_at, x.closed_at, x.assigned_to from public.leads x
         where x.org_id = v_org and x.created_at >= p_since order by x.created_at, x.id limit least(p_most, 1000)
    loop
        v_score := (select s.score from app.lead_score(v_org, l.id, l.created_at) s);
        select jsonb_object_agg(g.who, jsonb_build_object('open', g.open, 'last', g.last)) into v_load
          from (select u.who, count(*) filter (where u.until is null or u.until > l.created_at) as open,
                       max(u.at) filter (where u.at > '-infinity') as last
                  from unnest(v_users, v_from, v_until) u (who, at, until) group by u.who) g;
        select coalesce(jsonb_agg(r.parts || jsonb_build_object('user_id', r.user_id) order by r.place), '[]') into v_people
          from app.rank_people(v_org, l.id, v_score, coalesce(v_load, '{}'), '{}') r;
        v_best := case when (v_people -> 0 ->> 'suits')::numeric > 0 then v_people -> 0 end;
        if v_best is not null then
            v_given := v_given || (v_best ->> 'user_id')::uuid;
            v_users := v_users || (v_best ->> 'user_id')::uuid;
            v_from := v_from || l.created_at;
            v_until := v_until || l.closed_at;
        end if;
        v_told := v_told || jsonb_build_object(
            'lead_id', l.id, 'created_at', l.created_at, 'score', v_score, 'would_get', v_best -> 'user_id', 'reason', v_best - 'user_id' - 'had_it',
            'waiting', case when v_best is null then app.why_nobody(v_people) ->> 'reason' end, 'was_given_to', l.assigned_to);
    end loop;
    return jsonb_build_object(
        'since', p_since, 'leads', jsonb_array_length(v_told), 'given', cardinality(v_given),
        -- Only the oldest were looked at, if there are more.
        'leads_there_are', (select count(*) from public.leads x where x.org_id = v_org and x.created_at >= p_since),
        -- What switching on does to leads that are there: {"unassigned": 3, "waited": 2}.
        'would_move_now', (select coalesce(jsonb_object_agg(m.why, m.leads), '{}')
                             from (select d.why, count(*) as leads from app.leads_to_assign(v_org, null, 18) d group by d.why) m),
        'people', (select coalesce(jsonb_agg(jsonb_build_object('user_id', c.user_id, 'leads',
                              (select count(*) from unnest(v_given) u where u = c.user_id)) order by c.user_id), '[]')
                     from public.lead_capacity c where c.org_id = v_org),
        'assignments', v_told);
end
$$;

reset role;
