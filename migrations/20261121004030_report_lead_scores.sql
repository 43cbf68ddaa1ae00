-- Report how leads' scores met outcomes, switch assignment on and off by that, and try it on past leads without writing anything.
--
-- Locks:   none.
-- Rollout: expand.
-- Undo:    drop the functions of this file.

set local role spine_definer;

-- How the last score that each lead was given before it ended met how it ended, over those that ended within a year. Brier: the mean
-- square of score/100 less the outcome, where 0.25 is what knowing nothing scores. AUC: how often one that was won had the higher score
-- of two, ties counting half; null while none was won or none was lost.
create function app.lead_score_report(p_org uuid) returns jsonb
    language sql stable set search_path = '' as $$
    with ended as (
        select l.id, (l.status = 'won')::integer as won,
               (select c.score / 100 from public.lead_scoring c
                 where c.org_id = l.org_id and c.lead_id = l.id and c.created_at < l.closed_at
                 order by c.created_at desc, c.id desc limit 1) as p
          from public.leads l
         where l.org_id = p_org and l.status in ('won', 'lost') and l.closed_at > now() - interval '1 year'
    ),
    ranked as (
        -- Those that tie share the middle of their places.
        select e.won, e.p, rank() over (order by e.p) + (count(*) over (partition by e.p) - 1) / 2.0 as place
          from ended e where e.p is not null
    ),
    sums as (
        select count(*) as n, count(*) filter (where r.won = 1) as won, count(*) filter (where r.won = 0) as lost,
               avg(power(r.p - r.won, 2)) as brier, sum(r.place) filter (where r.won = 1) as places
          from ranked r
    )
    select jsonb_build_object('outcomes', s.n, 'won', s.won, 'lost', s.lost,
                              'unscored', (select count(*) from ended e where e.p is null),
                              'brier', round(s.brier, 6),
                              'auc', round((s.places - s.won * (s.won + 1) / 2.0) / nullif(s.won * s.lost, 0), 6))
      from sums s
$$;

-- What a report falls short of: null if of nothing, {"code","detail"} otherwise.
create function app.lead_floor_missed(p_report jsonb, p_min_auc numeric, p_max_brier numeric, p_min_outcomes integer) returns jsonb
    language sql immutable set search_path = '' as $$
    select case
        when p_min_auc is null and p_max_brier is null then null
        when (p_report ->> 'outcomes')::integer < p_min_outcomes or p_report ->> 'auc' is null then jsonb_build_object(
            'code', 'outcomes_too_few',
            'detail', format('%s scored leads have ended, %s of them won; %s and some of each are needed to hold scores to a floor. Set the floors to null to do without.',
                             p_report ->> 'outcomes', p_report ->> 'won', p_min_outcomes))
        when (p_report ->> 'auc')::numeric < p_min_auc or (p_report ->> 'brier')::numeric > p_max_brier then jsonb_build_object(
            'code', 'scores_too_weak',
            'detail', format('Scores met outcomes with an AUC of %s (at least %s wanted) and a Brier score of %s (at most %s wanted).',
                             p_report ->> 'auc', coalesce(p_min_auc::text, 'any'), p_report ->> 'brier', coalesce(p_max_brier::text, 'any')))
    end
$$;

-- Whether the person may manage how leads are assigned, and where.
create function app.managing_leads_org() returns uuid language plpgsql stable set search_path = '' as $$
begin
    if current_setting('role') <> 'spine_caller' or not app.may('leads:manage') then
        perform app.refuse('PT403', 'leads_manage_forbidden', 'Your role does not allow managing how leads are assigned.');
    end if;
    return app.active_org_id();
end
$$;

create function app.lead_assignment_settings_of(p_org uuid) returns jsonb language sql stable set search_path = '' as $$
    select coalesce((select to_jsonb(s) - 'org_id' from public.lead_assignment_settings s where s.org_id = p_org),
                    '{"enabled": false, "ai_bound": 0, "min_auc": null, "max_brier": null, "min_outcomes": null, "patience_hours": null}')
$$;

-- How scores met outcomes, and what is set.
create function app.lead_report() returns jsonb
    language sql stable security definer set search_path = '' as $$
    select app.lead_score_report(o.id) || jsonb_build_object('settings', app.lead_assignment_settings_of(o.id))
      from (select app.managing_leads_org() as id) o
$$;

-- Sets what `p_wanted` names and leaves the rest: {"enabled","min_auc","max_brier","min_outcomes","ai_bound","patience_hours"}. Switching
-- on is refused, and nothing changed, while the scores fall short of the floors that would then hold.
create function app.configure_lead_assignment(p_wanted jsonb) returns jsonb
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
        v_was := row(v_org, false, 0.6, 0.25, 20, 10, 48, null, null, null, now());
    end if;
    s := jsonb_populate_record(v_was, p_wanted - array['org_id', 'checked_at', 'stopped_at', 'stop_reason', 'updated_at']);
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
        (org_id, enabled, min_auc, max_brier, min_outcomes, ai_bound, patience_hours, checked_at, stopped_at, stop_reason)
    values (v_org, s.enabled, s.min_auc, s.max_brier, s.min_outcomes, s.ai_bound, s.patience_hours, s.checked_at, s.stopped_at, s.stop_reason)
    on conflict (org_id) do update
       set enabled = excluded.enabled, min_auc = excluded.min_auc, max_brier = excluded.max_brier, min_outcomes = excluded.min_outcomes,
           ai_bound = excluded.ai_bound, patience_hours = excluded.patience_hours, checked_at = excluded.checked_at,
           stopped_at = excluded.stopped_at, stop_reason = excluded.stop_reason;
    return jsonb_build_object('settings', app.lead_assignment_settings_of(v_org));
end
$$;

-- Organisations that have leads assigned by themselves and in which leads have ended since their scores were last looked at.
create function app.due_lead_checks(p_most integer) returns setof uuid
    language sql stable security definer set search_path = '' as $$
    select s.org_id from public.lead_assignment_settings s
     where s.enabled
       and exists (select from public.leads l
                    where l.org_id = s.org_id and l.status in ('won', 'lost') and l.updated_at > coalesce(s.checked_at, '-infinity'))
     order by s.checked_at nulls first limit least(p_most, 1000)
$$;

-- Looks whether scores still hold to the floors, and stops assigning by itself if they do not. What was missed; null if nothing. Too few
-- outcomes to tell are no reason to stop what runs.
create function app.check_lead_scores() returns jsonb
    language plpgsql volatile security definer set search_path = '' as $$
declare
    v_org    uuid := app.service_org();
    s        public.lead_assignment_settings;
    v_report jsonb;
    v_missed jsonb;
begin
    select * into s from public.lead_assignment_settings x where x.org_id = v_org and x.enabled for update;
    if not found then
        return null;
    end if;
    v_report := app.lead_score_report(v_org);
    v_missed := app.lead_floor_missed(v_report, s.min_auc, s.max_brier, s.min_outcomes);
    if v_missed ->> 'code' is distinct from 'scores_too_weak' then
        update public.lead_assignment_settings x set checked_at = now() where x.org_id = v_org;
        return null;
    end if;
    update public.lead_assignment_settings x
       set checked_at = now(), enabled = false, stopped_at = now(), stop_reason = v_missed || jsonb_build_object('report', v_report)
     where x.org_id = v_org;
    perform app.append_audit('lead_assignment.stopped', 'lead_assignment_settings', v_org::text,
                             jsonb_build_object('min_auc', s.min_auc, 'max_brier', s.max_brier, 'min_outcomes', s.min_outcomes),
                             v_missed, v_report, '{}', null, null, null, null);
    return v_missed || jsonb_build_object('report', v_report);
end
$$;

-- Who would have been given the leads that came since `p_since`, had they been assigned as they came: by what was known then, to people
-- as they are now, each with the open leads they had besides. And how many leads would be given to another at once. Writes nothing.
create function app.dry_run_leads(p_since timestamptz, p_most integer) returns jsonb
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
                             from (select d.why, count(*) as leads from app.leads_to_assign(v_org, null, 48) d group by d.why) m),
        'people', (select coalesce(jsonb_agg(jsonb_build_object('user_id', c.user_id, 'leads',
                              (select count(*) from unnest(v_given) u where u = c.user_id)) order by c.user_id), '[]')
                     from public.lead_capacity c where c.org_id = v_org),
        'assignments', v_told);
end
$$;
comment on function app.dry_run_leads(timestamptz, integer) is 'Who would have been given the leads that came since then. Writes nothing.';

grant execute on function app.lead_report(), app.configure_lead_assignment(jsonb), app.dry_run_leads(timestamptz, integer) to spine_caller;
grant execute on function app.due_lead_checks(integer), app.check_lead_scores() to spine_service;

reset role;
