-- Queue the analyst's work, tell which organisations' nightly insights are due, and give each kind of job a page of its own.
--
-- Locks:   none on tables beyond data being inserted.
-- Rollout: expand.
-- Undo:    drop the functions; job rows of type insight fail in the sweep's log until they are deleted.

set local role spine_definer;

-- The analyst's job on an insight that was made in this transaction, or that has to be tried again: queued, whether it was or had ended.
-- For whoever the insight is for, and for the system.
create function app.admit_insight_job(p_insight uuid) returns void
    language plpgsql volatile security definer set search_path = '' as $$
declare
    v_role  text := current_setting('role');
    v_org   uuid := app.current_org_id();
    v_actor uuid := case when v_role = 'spine_caller' then app.uid() end;
    v_job   uuid;
begin
    select i.job_id into v_job from public.ai_insights i
     where i.org_id = v_org and i.id = p_insight
       and (v_role = 'spine_service'
            or v_role = 'spine_caller' and (i.user_id = v_actor
                                            or i.user_id is null and app.may(i.audience)));
    if v_job is null then
        raise exception 'no such insight' using errcode = 'insufficient_privilege';
    end if;
    insert into public.jobs as j (id, org_id, job_type, payload, unique_key, created_by, max_attempts)
    values (v_job, v_org, 'insight', jsonb_build_object('insight_id', p_insight, 'asked_at', now()), p_insight::text, v_actor, 3)
    on conflict (org_id, job_type, unique_key) where unique_key is not null
    -- Whoever asks again pays for it.
    do update set status = 'queued', attempts = 0, run_after = now(), finished_at = null, last_error = null, result = null, wait_reason = null,
                  cancel_requested_at = null, payload = excluded.payload, created_by = excluded.created_by
       where j.status in ('succeeded', 'failed', 'cancelled');
end
$$;

-- That an insight's figures were computed once more and are the same: of several, the newest found so is shown.
create function app.confirm_insight(p_insight uuid) returns void
    language sql volatile security definer set search_path = '' as $$
    update public.ai_insights i set computed_at = now()
     where i.org_id = app.current_org_id() and i.id = p_insight
       and (current_setting('role') = 'spine_service'
            or current_setting('role') = 'spine_caller' and (i.user_id = app.uid() or i.user_id is null and app.may(i.audience)))
$$;
comment on function app.confirm_insight(uuid) is 'Tells that an insight''s figures are those of now.';

comment on function app.admit_insight_job(uuid) is 'Queues the analyst''s work on an insight, once until it has ended.';

-- Whether a job of the organisation is still to end: whoever may read an insight may know that its text is on the way.
create function app.job_is_open(p_job uuid) returns boolean
    language sql stable security definer set search_path = '' as $$
    select exists (select from public.jobs j where j.org_id = app.current_org_id() and j.id = p_job and j.status in ('queued', 'running'))
$$;
comment on function app.job_is_open(uuid) is 'Whether a job of one''s organisation is queued or at work.';

-- Spread evenly whatever the ids are.
create function app.insight_minute(p_org uuid) returns integer
    language sql immutable set search_path = '' return abs(hashtextextended(p_org::text, 0) % 60)::integer;
comment on function app.insight_minute(uuid) is 'The minute of the hour at which an organisation''s nightly insights begin.';

-- Nightly insights that are not there yet, ids and names only. An organisation has its minute of the hour that an operator set, by its
-- id, so that they do not all come at once; each gets a share of the page. Those of everybody who sees the whole table: what one person sees of
-- it is computed when they ask.
create function app.due_insights(p_now timestamptz, p_most integer) returns table (org_id uuid, table_name text, period text, audience text)
    language sql stable security definer set search_path = '' as $$
    select d.org_id, d.table_name, d.period, d.whole
      from (select s.org_id, f.table_name, p.period, f.whole, row_number() over (partition by s.org_id order by p.period, f.table_name) as place
              from public.insight_settings s
              cross join lateral unnest(s.periods) p (period)
              join app.insight_sources() f on f.table_name = any (s.tables)
             where s.nightly
               and extract(hour from p_now at time zone 'UTC') * 60 + extract(minute from p_now at time zone 'UTC')
                   >= (app.setting('insights.nightly_from') #>> '{}')::integer + app.insight_minute(s.org_id)
               -- One look into the index for each, however long the history is.
               and (select i.id from public.ai_insights i
                     where i.org_id = s.org_id and i.table_name = f.table_name and i.period = p.period and i.audience = f.whole
                       and i.user_id is null and i.figures_digest is not null
                       and i.period_start = date_subtract(date_trunc(p.period, p_now, 'UTC'), ('1 ' || p.period)::interval, 'UTC')
                     limit 1) is null) d
     order by d.place, d.org_id limit least(p_most, 1000)
$$;
comment on function app.due_insights(timestamptz, integer) is 'Which organisations'' nightly insights are due: of which table, for which period.';

-- As before, with a page for each kind of job: a night of insights keeps no render and no lead waiting.
create or replace function app.due_jobs(most integer) returns table (org_id uuid, job_id uuid, job_type text)
    language sql stable security definer set search_path = '' as $$
    select e.org_id, e.id, e.job_type
      from (select d.*, row_number() over (partition by d.job_type order by d.place, d.id) as nth
              from (select j.org_id, j.id, j.job_type,
                           row_number() over (partition by j.org_id, j.job_type order by j.priority desc, j.run_after) as place
                      from public.jobs j
                     where (j.status = 'queued' and j.run_after <= now())
                        or (j.status = 'running' and j.lease_until <= now())) d) e
     where e.nth <= least(most, 1000)
     order by e.nth, e.id
$$;

grant execute on function app.admit_insight_job(uuid), app.confirm_insight(uuid) to spine_caller, spine_service;
grant execute on function app.job_is_open(uuid) to spine_caller, spine_service;
grant execute on function app.due_insights(timestamptz, integer) to spine_service;

reset role;
