-- Tell which leads are to be given to somebody in one pass over an organisation's open leads, and ask one organisation at a time.
--
-- Locks:   leads, lead_notes and jobs against writes, while an index of each is built.
-- Rollout: expand; app.due_leads and app.wake_waiting_leads stay for functions that are deployed, until a later migration drops them.
-- Undo:    create or replace the functions as 20261121004020 has them, drop those made here, build leads_open_idx as 20261121004000
--          has it and drop the index of lead_notes.

set local role spine_owner;

-- In the order in which a person's leads count against their capacity, with all that is asked of each, so that the heap is left alone.
create index leads_placed_idx on public.leads (org_id, assigned_to, coalesce(assigned_at, created_at), id)
    include (assigned_at, created_at, updated_at) where status not in ('won', 'lost');
drop index public.leads_open_idx;
create index lead_notes_org_id_created_at_idx on public.lead_notes (org_id, created_at, lead_id);
-- What waits for more than its time.
create index jobs_waiting_idx on public.jobs (job_type, org_id) where status = 'queued' and wait_reason is not null;

reset role;
set local role spine_definer;

-- Open leads that somebody is to be found for, and why: nobody has them, or their person has more than they take (the latest given go
-- first), or has let them lie. Of the whole organisation, in one pass; or of one lead. `p_patience` in hours, where the organisation set
-- none.
create or replace function app.leads_to_assign(p_org uuid, p_lead uuid, p_patience integer default null)
    returns table (lead_id uuid, why text)
    language sql stable set search_path = '' as $$
    with patience as materialized (
        select now() - make_interval(hours => coalesce((select s.patience_hours from public.lead_assignment_settings s where s.org_id = p_org),
                                                       p_patience)) as since
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
                       when p.place > c.max_open then 'over_capacity'
                       -- Untouched for so long: whatever people change of a lead moves updated_at.
                       when p.touched < t.since
                            and p.id not in (select n.lead_id from public.lead_notes n
                                              where n.org_id = p_org and n.created_at >= (select since from patience)
                                                and (p_lead is null or n.lead_id = p_lead)) then 'waited'
                   end as why
              from placed p cross join patience t
              left join public.lead_capacity c on c.org_id = p_org and c.user_id = p.assigned_to) x
     where x.why is not null
$$;

-- Organisations that have leads assigned by themselves, in another order each time: where time runs out is no organisation's fate.
create function app.lead_orgs(p_most integer) returns setof uuid
    language sql stable security definer set search_path = '' as $$
    select s.org_id from public.lead_assignment_settings s where s.enabled order by random() limit least(p_most, 1000)
$$;
comment on function app.lead_orgs(integer) is 'Organisations that have leads assigned by themselves.';

-- An organisation's leads which nobody is working on yet, the most promising first.
create function app.due_leads_of(p_org uuid, p_most integer) returns table (lead_id uuid, score numeric)
    language sql stable set search_path = '' as $$
    with due as materialized (
        select w.lead_id from app.leads_to_assign(p_org, null) w
         where not exists (select from public.jobs j
                            where j.org_id = p_org and j.job_type = 'lead_assign' and j.unique_key = w.lead_id::text
                              -- What has failed, or was called off, is let be for an hour.
                              and (j.status in ('queued', 'running')
                                   or j.status in ('failed', 'cancelled') and j.finished_at > now() - interval '1 hour'
                                      -- But for what the schedule itself had stopped.
                                      and not (j.status = 'cancelled' and j.cancel_requested_at is null
                                               and coalesce((j.payload ->> 'by_schedule')::boolean, false))))
    )
    select d.lead_id, c.score
      from due d
      left join lateral (select c.score from public.lead_scoring c where c.org_id = p_org and c.lead_id = d.lead_id
                          order by c.created_at desc limit 1) c on true
     order by c.score desc nulls last, d.lead_id limit least(p_most, 1000)
$$;

-- The same of the organisation of this transaction, if it has its leads assigned by themselves. Ids only.
create function app.due_leads_here(p_most integer) returns setof uuid
    language sql stable security definer set search_path = '' as $$
    select d.lead_id from public.lead_assignment_settings s cross join lateral app.due_leads_of(s.org_id, p_most) d
     where s.org_id = app.service_org() and s.enabled
     order by d.score desc nulls last, d.lead_id
$$;
comment on function app.due_leads_here(integer) is 'Leads of this organisation that somebody is to be found for, the most promising first.';

create or replace function app.due_leads(p_most integer) returns table (org_id uuid, lead_id uuid)
    language sql stable security definer set search_path = '' as $$
    select d.org_id, d.lead_id
      from (select s.org_id, w.lead_id, row_number() over (partition by s.org_id order by w.score desc nulls last, w.lead_id) as place
              from public.lead_assignment_settings s cross join lateral app.due_leads_of(s.org_id, p_most) w
             where s.enabled) d
     order by d.place, d.org_id limit least(p_most, 1000)
$$;

-- Organisations in which leads wait for somebody to have room.
create function app.waiting_lead_orgs(p_most integer) returns setof uuid
    language sql stable security definer set search_path = '' as $$
    select o.org_id
      from (select distinct j.org_id from public.jobs j
             where j.job_type = 'lead_assign' and j.status = 'queued' and j.wait_reason is not null and j.run_after > now()) o
     order by random() limit least(p_most, 1000)
$$;
comment on function app.waiting_lead_orgs(integer) is 'Organisations in which leads wait for somebody to have room.';

-- Wakes leads of this organisation that wait where somebody can take them again: no more than there is room for, five hundred at most,
-- the most promising first, and none that was looked at in the last five minutes. How many.
create function app.wake_leads_here() returns integer
    language plpgsql volatile security definer set search_path = '' as $$
declare
    v_org   uuid := app.service_org();
    v_room  bigint;
    v_load  jsonb;
    v_woken integer;
begin
    select sum(greatest(0, c.max_open - (select count(*) from public.leads l
                                          where l.org_id = c.org_id and l.assigned_to = c.user_id and l.status not in ('won', 'lost'))))
      into v_room from public.lead_capacity c where c.org_id = v_org and c.available;
    if coalesce(v_room, 0) = 0 then
        return 0;
    end if;
    v_load := app.lead_load(v_org);
    with waiting as (
        select j.id, w.lead_id
          from public.jobs j
         cross join lateral (select (j.payload ->> 'lead_id')::uuid as lead_id) w
          left join lateral (select c.score from public.lead_scoring c where c.org_id = v_org and c.lead_id = w.lead_id
                              order by c.created_at desc limit 1) c on true
         where j.org_id = v_org and j.job_type = 'lead_assign' and j.status = 'queued' and j.run_after > now()
           and j.wait_reason ->> 'reason' <> 'paused'
           and (j.wait_reason ->> 'at')::timestamptz < now() - interval '5 minutes'
         order by c.score desc nulls last, j.run_after limit least(v_room, 500)
    ),
    woken as (
        update public.jobs j set run_after = now() from waiting w
         where exists (select from app.leads_to_assign(v_org, w.lead_id) d,
                                   app.rank_people(v_org, w.lead_id, null, v_load, app.lead_not_to(v_org, w.lead_id, d.why)) p where p.suits > 0)
           and j.org_id = v_org and j.id = w.id and j.status = 'queued' returning 1
    )
    select count(*)::integer into v_woken from woken;
    return v_woken;
end
$$;
comment on function app.wake_leads_here() is 'Wakes leads of this organisation that wait and that somebody has room for again. How many.';

grant execute on function app.lead_orgs(integer), app.due_leads_here(integer), app.waiting_lead_orgs(integer), app.wake_leads_here() to spine_service;

reset role;
