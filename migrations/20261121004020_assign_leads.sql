-- Assign leads: who suits, who is chosen, and which leads are to be given to somebody.
--
-- Locks:   none.
-- Rollout: expand.
-- Undo:    drop the functions of this file.

set local role spine_definer;

-- What a score is made of, said in words.
create function app.lead_rationale(p_factors jsonb) returns text language sql immutable set search_path = '' as $$
    select string_agg(f.key || ' ' || (f.value ->> 'points') || ' of ' || (f.value ->> 'weight'), ', '
                      order by (f.value ->> 'points')::numeric desc, f.key)
      from jsonb_each(p_factors) f
$$;

-- How many open leads each has now, and when they were last given one: {"<user>": {"open": 3, "last": "…"}}.
create function app.lead_load(p_org uuid) returns jsonb language sql stable set search_path = '' as $$
    select coalesce(jsonb_object_agg(c.user_id, jsonb_build_object(
               'open', (select count(*) from public.leads l
                         where l.org_id = c.org_id and l.assigned_to = c.user_id and l.status not in ('won', 'lost')),
               'last', (select max(a.created_at) from public.lead_assignments a where a.org_id = c.org_id and a.user_id = c.user_id))), '{}')
      from public.lead_capacity c where c.org_id = p_org
$$;

-- Everybody who takes leads, the best place first. Each part is from 0 to 1, and their product says how well somebody suits:
-- room is the share of their capacity that is free; territory and availability are all or nothing; of the skills it is the share that
-- they have, and a fifth for who has none of them, since somebody is better than nobody. Among those within a tenth of the best the
-- least loaded is first, then who was given a lead longest ago, then the id: the same state gives the same answer. Who is in `p_not` is
-- weighed and suits nothing.
create function app.rank_people(p_org uuid, p_lead uuid, p_score numeric, p_load jsonb, p_not uuid[])
    returns table (user_id uuid, place integer, suits numeric, fit numeric, parts jsonb)
    language sql stable set search_path = '' as $$
    with l as (select * from public.leads x where x.org_id = p_org and x.id = p_lead),
    part as (
        select c.user_id, c.max_open, coalesce((p_load -> c.user_id::text ->> 'open')::integer, 0) as open,
               (p_load -> c.user_id::text ->> 'last')::timestamptz as last,
               c.available::integer::numeric as availability,
               (l.territory is null or c.territories = '{}'
                or exists (select from unnest(c.territories) t where lower(t) = lower(l.territory)))::integer::numeric as territory,
               case when l.wanted_skills = '{}' then 1 else
                   (select greatest(0.2, avg(exists (select from unnest(c.skills) s where lower(s) = w.skill)::integer))
                      from (select distinct lower(x) as skill from unnest(l.wanted_skills) x) w) end as skills,
               c.user_id = any (p_not) as excluded
          from l join public.lead_capacity c on c.org_id = l.org_id
    ),
    suit as (
        select p.*, r.room, case when p.excluded then 0 else round(r.room * p.skills * p.territory * p.availability, 6) end as suits
          from part p, lateral (select greatest(0, p.max_open - p.open)::numeric / greatest(1, p.max_open) as room) r
    ),
    near as (select s.*, s.suits > 0 and s.suits >= 0.9 * max(s.suits) over () as near, s.open::numeric / greatest(1, s.max_open) as load from suit s)
    select n.user_id,
           (row_number() over (order by n.near desc, case when n.near then n.load end, case when n.near then n.last end nulls first,
                                        n.suits desc, n.load, n.user_id))::integer,
           n.suits, round(coalesce(p_score, 0) / 100 * n.suits, 6),
           jsonb_build_object('room', round(n.room, 4), 'skills', round(n.skills, 4), 'territory', n.territory, 'availability', n.availability,
                              'open', n.open, 'max_open', n.max_open, 'last_assigned_at', n.last, 'had_it', n.excluded, 'suits', n.suits,
                              'fit', round(coalesce(p_score, 0) / 100 * n.suits, 6))
      from near n
$$;

-- Why nobody can take a lead, given what rank_people says of everybody.
create function app.why_nobody(p_people jsonb) returns jsonb language sql immutable set search_path = '' as $$
    select case
        when jsonb_array_length(p_people) = 0 then
            '{"reason": "nobody_takes_leads", "detail": "Nobody of the organisation has a capacity for leads; set lead_capacity for somebody."}'
        when not exists (select from jsonb_array_elements(p_people) p where (p ->> 'availability')::numeric > 0) then
            '{"reason": "nobody_available", "detail": "Everybody who could take the lead is away."}'
        when not exists (select from jsonb_array_elements(p_people) p where (p ->> 'availability')::numeric > 0 and (p ->> 'territory')::numeric > 0) then
            '{"reason": "territory_not_covered", "detail": "Nobody who is available works in the lead''s territory."}'
        when exists (select from jsonb_array_elements(p_people) p
                      where (p ->> 'had_it')::boolean and (p ->> 'availability')::numeric * (p ->> 'territory')::numeric * (p ->> 'room')::numeric > 0) then
            '{"reason": "everybody_had_it", "detail": "Whoever has room has the lead, or let it lie before."}'
        else '{"reason": "everybody_full", "detail": "Everybody who could take the lead has as many open leads as they take."}'
    end::jsonb
$$;

-- Open leads that somebody is to be found for, and why: nobody has them, or whoever has them has more than they take (the latest given go
-- first), or has let them lie. Of the whole organisation, or of one lead; `p_patience` in hours, where the organisation set none.
create function app.leads_to_assign(p_org uuid, p_lead uuid, p_patience integer default null) returns table (lead_id uuid, why text)
    language sql stable set search_path = '' as $$
    select x.id, x.why
      from (select l.id, case
                       when l.assigned_to is null then 'unassigned'
                       when (select count(*) from public.leads o
                              where o.org_id = l.org_id and o.assigned_to = l.assigned_to and o.status not in ('won', 'lost')
                                and (coalesce(o.assigned_at, o.created_at), o.id) < (coalesce(l.assigned_at, l.created_at), l.id)) >= c.max_open
                           then 'over_capacity'
                       -- Untouched for so long: whatever people change of a lead moves updated_at.
                       when greatest(l.assigned_at, l.updated_at) < now() - make_interval(hours => coalesce(s.patience_hours, p_patience))
                            and not exists (select from public.lead_notes n
                                             where n.org_id = l.org_id and n.lead_id = l.id
                                               and n.created_at >= now() - make_interval(hours => coalesce(s.patience_hours, p_patience)))
                           then 'waited'
                   end as why
              from public.leads l
              left join public.lead_capacity c on c.org_id = l.org_id and c.user_id = l.assigned_to
              left join public.lead_assignment_settings s on s.org_id = l.org_id
             where l.org_id = p_org and l.status not in ('won', 'lost') and (p_lead is null or l.id = p_lead)) x
     where x.why is not null
$$;

-- Who has a lead, and why this person; null fields where it was given to them in another way, or to nobody.
create function app.lead_assignment(p_org uuid, p_lead uuid, p_all boolean) returns jsonb language sql stable set search_path = '' as $$
    select jsonb_build_object('lead_id', l.id, 'status', l.status, 'assigned_to', l.assigned_to, 'assigned_at', l.assigned_at,
                              'assignment_id', a.id, 'score', a.score, 'decided_by', a.decided_by, 'reason', a.reason)
           || case when p_all then jsonb_build_object('candidates', a.candidates) else '{}' end
      from public.leads l
      left join public.lead_assignments a
        on a.org_id = l.org_id and a.lead_id = l.id and a.ended_at is null and a.user_id = l.assigned_to
     where l.org_id = p_org and l.id = p_lead
$$;

-- Who is not to be given a lead: whoever has it; and where it was left to lie, whoever let it lie before.
create function app.lead_not_to(p_org uuid, p_lead uuid, p_why text) returns uuid[] language sql stable set search_path = '' as $$
    select array(select l.assigned_to from public.leads l where l.org_id = p_org and l.id = p_lead and l.assigned_to is not null
                 union
                 select a.user_id from public.lead_assignments a
                  where p_why = 'waited' and a.org_id = p_org and a.lead_id = p_lead and a.end_reason = 'waited' and a.user_id is not null)
$$;

-- Whether whoever runs this transaction may have leads assigned, and where. Nobody does it to a lead that they may not see.
create function app.assigning_org() returns uuid language plpgsql stable set search_path = '' as $$
declare
    v_role text := current_setting('role');
begin
    if not coalesce(case v_role when 'spine_service' then true
                                when 'spine_agent' then app.agent_may('leads:assign') and app.agent_may('leads:read')
                                when 'spine_caller' then app.may('leads:assign') and app.may('leads:read_all') end, false) then
        perform app.refuse('PT403', 'leads_assign_forbidden', 'Your role does not allow having leads assigned.');
    end if;
    return app.current_org_id();
end
$$;

-- Scores a lead, finds who suits it best, gives it to them and tells why: all of it or nothing. `p_ai` is what a model asked for,
-- {"adjustment","reason","model"}, of which no more than the organisation's bound counts, and without a reason nothing; or {"instead"}, why
-- it was not heard. {"job_id","asked_by","call_id"} go into the audit entry.
--
-- One after another within an organisation: whoever chooses sees all that was chosen before, so that nobody is given more than they
-- take. What an organisation's people change meanwhile either was seen or comes after.
--
-- {"outcome"}: lead_not_found, lead_closed, already_assigned, waiting (nobody can take it; it stays where it is), assigned, reassigned.
create function app.assign_lead(p_lead uuid, p_ai jsonb) returns jsonb
    language plpgsql volatile security definer set search_path = '' as $$
declare
    v_org        uuid := app.assigning_org();
    v_lead       public.leads;
    v_why        text;
    v_score0     numeric;
    v_factors0   jsonb;
    v_bound      integer;
    v_asked      numeric := (p_ai ->> 'adjustment')::numeric;
    v_move       numeric := 0;
    v_score      numeric;
    v_factors    jsonb;
    v_people     jsonb;
    v_chosen     jsonb;
    v_user       uuid;
    v_model      text;
    v_reason     jsonb;
    v_id         uuid;
begin
    -- Scored before others wait for it, and not where nobody could take the lead.
    if exists (select from app.leads_to_assign(v_org, p_lead) d, app.rank_people(v_org, p_lead, null, app.lead_load(v_org), app.lead_not_to(v_org, p_lead, d.why)) r
                where r.suits > 0) then
        select r.score, r.factors into v_score0, v_factors0 from app.lead_score(v_org, p_lead, now()) r;
    end if;
    perform pg_advisory_xact_lock(hashtextextended('spine.leads ' || v_org, 0));
    select * into v_lead from public.leads l where l.org_id = v_org and l.id = p_lead for no key update;
    if not found then
        return jsonb_build_object('outcome', 'lead_not_found');
    end if;
    if v_lead.status in ('won', 'lost') then
        return jsonb_build_object('outcome', 'lead_closed', 'assignment', app.lead_assignment(v_org, p_lead, false));
    end if;
    v_why := (select d.why from app.leads_to_assign(v_org, p_lead) d);
    if v_why is null then
        return jsonb_build_object('outcome', 'already_assigned', 'assignment', app.lead_assignment(v_org, p_lead, false));
    end if;

    select coalesce(jsonb_agg(r.parts || jsonb_build_object('user_id', r.user_id) order by r.place), '[]') into v_people
      from app.rank_people(v_org, p_lead, null, app.lead_load(v_org), app.lead_not_to(v_org, p_lead, v_why)) r;
    if v_score0 is null and exists (select from jsonb_array_elements(v_people) p where (p ->> 'suits')::numeric > 0) then
        select r.score, r.factors into v_score0, v_factors0 from app.lead_score(v_org, p_lead, now()) r;
    end if;
    v_bound := coalesce((select s.ai_bound from public.lead_assignment_settings s where s.org_id = v_org), 0);
    if v_asked is not null and v_bound > 0 and trim(p_ai ->> 'reason') <> '' then
        v_move := greatest(-v_bound, least(v_bound, v_asked));
        v_model := coalesce(p_ai ->> 'model', 'unknown');
    end if;
    v_score := greatest(0, least(100, v_score0 + v_move));
    v_factors := v_factors0 || case when v_model is null then '{}' else jsonb_build_object('ai', jsonb_build_object(
        'weight', v_bound, 'points', v_move, 'asked', v_asked, 'bounded', v_move <> v_asked)) end;

    -- How far somebody fits is how well they suit, times how good the lead is.
    select coalesce(jsonb_agg(p.value || jsonb_build_object('fit', round(v_score / 100 * (p.value ->> 'suits')::numeric, 6)) order by p.place), '[]')
      into v_people from jsonb_array_elements(v_people) with ordinality p (value, place);
    for v_chosen in
        select p.value from jsonb_array_elements(v_people) with ordinality p (value, place)
         where (p.value ->> 'suits')::numeric > 0
         order by p.place
    loop
        begin
            -- In the order in which an account's deletion takes them.
            perform from public.profiles x where x.id = (v_chosen ->> 'user_id')::uuid for key share;
            update public.leads l set assigned_to = (v_chosen ->> 'user_id')::uuid, assigned_at = now() where l.org_id = v_org and l.id = p_lead;
            v_user := (v_chosen ->> 'user_id')::uuid;
            exit;
        exception when foreign_key_violation then
            -- Left the organisation at this moment: the next one.
            null;
        end;
    end loop;
    if v_user is null then
        return jsonb_build_object('outcome', 'waiting', 'why', v_why, 'waiting', app.why_nobody(v_people),
                                  'assignment', app.lead_assignment(v_org, p_lead, false));
    end if;

    insert into public.lead_scoring (org_id, lead_id, score, rationale, factors, model)
    values (v_org, p_lead, v_score,
            app.lead_rationale(v_factors0) || case when v_model is null then '' else
                format('. Moved by %s: %s', v_move, left(coalesce(p_ai ->> 'reason', ''), 1000)) end,
            v_factors, coalesce(v_model, 'rules'));
    update public.lead_assignments a
       set ended_at = now(), end_reason = case v_why when 'unassigned' then 'left' else v_why end
     where a.org_id = v_org and a.lead_id = p_lead and a.ended_at is null;
    v_id := app.uuidv7();
    v_reason := (v_chosen - 'user_id' - 'last_assigned_at' - 'had_it')
             || jsonb_build_object('weighed', jsonb_array_length(v_people), 'why', v_why, 'score', v_score, 'rules_score', v_score0,
                                   'ai_moved', v_move, 'instead_because', p_ai ->> 'instead');
    insert into public.lead_assignments (id, org_id, lead_id, user_id, score, decided_by, reason, candidates)
    values (v_id, v_org, p_lead, v_user, v_score, case when v_model is null then 'rules' else 'ai' end, v_reason,
            -- Of a hundred people, who came near is what says why.
            (select jsonb_agg(p.value order by p.place) from jsonb_array_elements(v_people) with ordinality p (value, place) where p.place <= 100));
    perform app.append_audit(
        case when v_why = 'unassigned' then 'lead.assigned' else 'lead.reassigned' end, 'leads', p_lead::text,
        jsonb_build_object('why', v_why, 'was_assigned_to', v_lead.assigned_to, 'factors', v_factors),
        -- What the model said of the lead may be personal; it stands with the score, and here only by how much.
        jsonb_build_object('score', v_score, 'rules_score', v_score0, 'ai_moved', v_move, 'ai_asked', v_asked, 'ai_bound', v_bound,
                           'model', coalesce(v_model, 'rules'), 'instead_because', p_ai ->> 'instead',
                           'people', jsonb_array_length(v_people), 'weighed', jsonb_path_query_array(v_people, '$[0 to 99]')),
        jsonb_build_object('assignment_id', v_id, 'assigned_to', v_user),
        jsonb_strip_nulls(jsonb_build_object('job_id', p_ai ->> 'job_id', 'asked_by', p_ai ->> 'asked_by', 'provider_call_id', p_ai ->> 'call_id')), null, null, null, array_remove(array[v_user, v_lead.assigned_to], null));
    return jsonb_build_object('outcome', case when v_why = 'unassigned' then 'assigned' else 'reassigned' end,
                              'assignment', app.lead_assignment(v_org, p_lead, false));
end
$$;
comment on function app.assign_lead(uuid, jsonb) is 'Gives a lead to whoever suits it best, with the reasons, in one transaction; one at a time within an organisation.';

-- What an assignment needs to know before it costs anything: whether there is anything to do and anybody to do it for, the score by the
-- rules, how far a model may move it, and what the model may be told. `personal` is what must be struck from the rest.
create function app.look_at_lead(p_lead uuid) returns jsonb
    language sql stable security definer set search_path = '' as $$
    with org as (select app.assigning_org() as id)
    select jsonb_build_object(
               'outcome', case when l.status in ('won', 'lost') then 'lead_closed' when d.why is null then 'already_assigned' else 'due' end,
               'free', f.free, 'enabled', coalesce(s.enabled, false), 'ai_bound', coalesce(s.ai_bound, 0),
               'rules', case when f.free and s.ai_bound > 0 then (select jsonb_build_object('score', r.score, 'factors', r.factors)
                                                                    from app.lead_score(l.org_id, l.id, now()) r) end,
               'facts', jsonb_build_object(
                   'source', l.source, 'budget_minor', l.budget_minor, 'currency', l.currency, 'territory', l.territory,
                   'wanted_skills', l.wanted_skills, 'status', l.status, 'age_days', floor(extract(epoch from now() - l.created_at) / 86400),
                   'notes', (select coalesce(jsonb_agg(left(n.note, 4000) order by n.created_at), '[]')
                               from (select * from public.lead_notes x where x.org_id = l.org_id and x.lead_id = l.id
                                      order by x.created_at desc limit 20) n)),
               'personal', jsonb_build_array(l.client_name, l.email, l.phone))
      from org
      join public.leads l on l.org_id = org.id and l.id = p_lead
      left join app.leads_to_assign(l.org_id, l.id) d on true
      left join public.lead_assignment_settings s on s.org_id = l.org_id
     cross join lateral (select exists (
               select from app.rank_people(l.org_id, l.id, null, app.lead_load(l.org_id), app.lead_not_to(l.org_id, l.id, d.why)) r
                where r.suits > 0) as free) f
$$;

-- Who has a lead, and why this person: for whoever sees the lead; the others' parts only for those who see all leads.
create function app.read_lead_assignment(p_lead uuid) returns jsonb
    language sql stable security definer set search_path = '' as $$
    select app.lead_assignment(l.org_id, l.id, w.all_leads)
      from (select app.current_org_id() as org_id,
                   case current_setting('role') when 'spine_agent' then app.agent_may('leads:read') else app.may('leads:read_all') end as all_leads) w
      join public.leads l on l.org_id = w.org_id and l.id = p_lead
     where w.all_leads or (current_setting('role') = 'spine_caller' and l.assigned_to = app.uid())
$$;

-- Queues the assignment of a lead, once for a lead; asked for again, it is looked at when this says. Null if there is no such lead.
create function app.admit_lead_job(p_lead uuid, p_run_after timestamptz, p_waiting jsonb) returns uuid
    language plpgsql volatile security definer set search_path = '' as $$
declare
    v_org   uuid := app.assigning_org();
    v_actor uuid := case current_setting('role') when 'spine_caller' then app.uid() when 'spine_agent' then app.agent_id() end;
    v_job   uuid;
begin
    insert into public.jobs as j (org_id, job_type, unique_key, payload, run_after, wait_reason, created_by)
    select v_org, 'lead_assign', l.id::text, jsonb_build_object('lead_id', l.id, 'asked_at', now(), 'by_schedule', v_actor is null),
           p_run_after, p_waiting, v_actor
      from public.leads l where l.org_id = v_org and l.id = p_lead
    on conflict (org_id, job_type, unique_key) where unique_key is not null
    do update set status = case when j.status = 'running' then j.status else 'queued' end,
                  run_after = excluded.run_after, wait_reason = case when j.status = 'running' then null else excluded.wait_reason end,
                  attempts = case when j.status in ('succeeded', 'failed', 'cancelled') then 0 else j.attempts end,
                  result = null, last_error = null, finished_at = null, cancel_requested_at = null,
                  -- What somebody asked for stays theirs until it has ended; what is done anew is whoever's it is now.
                  payload = case when j.status in ('queued', 'running') and excluded.created_by is null then j.payload else excluded.payload end,
                  created_by = case when j.status in ('queued', 'running') then coalesce(excluded.created_by, j.created_by) else excluded.created_by end
    returning j.id into v_job;
    return v_job;
end
$$;

-- Leads of organisations that have them assigned by themselves, which nobody is working on yet. Ids only; one organisation's backlog
-- does not hide another's, and within one the most promising come first.
create function app.due_leads(p_most integer) returns table (org_id uuid, lead_id uuid)
    language sql stable security definer set search_path = '' as $$
    select d.org_id, d.lead_id
      from (select s.org_id, w.lead_id,
                   row_number() over (partition by s.org_id order by
                       (select c.score from public.lead_scoring c where c.org_id = s.org_id and c.lead_id = w.lead_id
                         order by c.created_at desc limit 1) desc nulls last, w.lead_id) as place
              from public.lead_assignment_settings s
             cross join lateral app.leads_to_assign(s.org_id, null) w
             where s.enabled
               and not exists (select from public.jobs j
                                where j.org_id = s.org_id and j.job_type = 'lead_assign' and j.unique_key = w.lead_id::text
                                  -- What has failed, or was called off, is let be for an hour.
                                  and (j.status in ('queued', 'running')
                                       or j.status in ('failed', 'cancelled') and j.finished_at > now() - interval '1 hour'
                                          -- But for what the schedule itself had stopped.
                                          and not (j.status = 'cancelled' and j.cancel_requested_at is null
                                                   and coalesce((j.payload ->> 'by_schedule')::boolean, false))))) d
     order by d.place, d.org_id limit least(p_most, 1000)
$$;

-- New leads that have no score yet, of the last week. One organisation's many do not keep another's waiting.
create function app.unscored_leads(p_most integer) returns table (org_id uuid, lead_id uuid)
    language sql stable security definer set search_path = '' as $$
    select d.org_id, d.id
      from (select l.org_id, l.id, row_number() over (partition by l.org_id order by l.created_at, l.id) as place
              from public.leads l
             where l.status not in ('won', 'lost') and l.created_at > now() - interval '7 days'
               and not exists (select from public.lead_scoring c where c.org_id = l.org_id and c.lead_id = l.id)) d
     order by d.place, d.org_id limit least(p_most, 1000)
$$;

-- Scores a new lead, once.
create function app.score_new_lead(p_lead uuid) returns boolean
    language plpgsql volatile security definer set search_path = '' as $$
declare
    v_org uuid := app.service_org();
begin
    perform pg_advisory_xact_lock(hashtextextended('spine.lead_score ' || p_lead, 0));
    if exists (select from public.lead_scoring c where c.org_id = v_org and c.lead_id = p_lead) then
        return false;
    end if;
    perform public.update_lead_score(p_lead);
    return true;
end
$$;

-- Wakes leads that wait where somebody can take them again: no more of an organisation's than there is room for, the most promising
-- first, and none that was looked at in the last five minutes. How many.
create function app.wake_waiting_leads() returns integer
    language sql volatile security definer set search_path = '' as $$
    with waiting as (
        select j.org_id, j.id, (j.payload ->> 'lead_id')::uuid as lead_id, row_number() over (partition by j.org_id order by
                   (select c.score from public.lead_scoring c where c.org_id = j.org_id and c.lead_id = (j.payload ->> 'lead_id')::uuid
                     order by c.created_at desc limit 1) desc nulls last, j.run_after) as place
          from public.jobs j
         where j.job_type = 'lead_assign' and j.status = 'queued' and j.run_after > now()
           and j.wait_reason ->> 'reason' <> 'paused'
           and (j.wait_reason ->> 'at')::timestamptz < now() - interval '5 minutes'
    ),
    room as (
        select c.org_id, sum(greatest(0, c.max_open - (select count(*) from public.leads l
                                                        where l.org_id = c.org_id and l.assigned_to = c.user_id and l.status not in ('won', 'lost')))) as free
          from public.lead_capacity c where c.available and c.org_id in (select w.org_id from waiting w) group by c.org_id
    ),
    load as materialized (select r.org_id, app.lead_load(r.org_id) as load from room r where r.free > 0),
    woken as (
        update public.jobs j set run_after = now()
          from waiting w join room r on r.org_id = w.org_id and w.place <= r.free join load o on o.org_id = w.org_id
         where exists (select from app.leads_to_assign(w.org_id, w.lead_id) d,
                                   app.rank_people(w.org_id, w.lead_id, null, o.load, app.lead_not_to(w.org_id, w.lead_id, d.why)) p where p.suits > 0)
           and j.org_id = w.org_id and j.id = w.id and j.status = 'queued' returning 1
    )
    select count(*)::integer from woken
$$;

grant execute on function app.unscored_leads(integer), app.score_new_lead(uuid), app.wake_waiting_leads() to spine_service;
grant execute on function app.assign_lead(uuid, jsonb), app.look_at_lead(uuid), app.admit_lead_job(uuid, timestamptz, jsonb)
    to spine_caller, spine_agent, spine_service;
grant execute on function app.read_lead_assignment(uuid) to spine_caller, spine_agent;
grant execute on function app.due_leads(integer) to spine_service;

reset role;
