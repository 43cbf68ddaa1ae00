-- Move all open leads of an absent person by hand.
--
-- Locks:   none.
-- Rollout: expand.
-- Undo:    drop the function.

set local role spine_definer;

-- Queues the assignment of the open leads of a person who is absent, the most promising first and those that are queued already left
-- as they are. Each is given to another as any lead is, under the same lock and by the same rules; a lead that no one can take stays and waits.
-- {"queued": ["<job>"], "left": 0}, or {"refused": "<code>"}.
create function app.move_leads_of(p_user uuid, p_most integer) returns jsonb
    language plpgsql volatile security definer set search_path = '' as $$
declare
    v_org       uuid := app.managing_leads_org();
    v_available boolean;
    v_jobs      jsonb;
    v_left      bigint;
begin
    select c.available into v_available from public.lead_capacity c where c.org_id = v_org and c.user_id = p_user;
    if not found then
        return jsonb_build_object('refused', 'person_not_found');
    end if;
    if v_available then
        return jsonb_build_object('refused', 'person_not_absent');
    end if;
    with open as materialized (
        select l.id, c.score
          from public.leads l
          left join lateral (select x.score from public.lead_scoring x where x.org_id = l.org_id and x.lead_id = l.id
                              order by x.created_at desc limit 1) c on true
         where l.org_id = v_org and l.assigned_to = p_user and l.status not in ('won', 'lost')
           and not exists (select from public.jobs j
                            where j.org_id = l.org_id and j.job_type = 'lead_assign' and j.unique_key = l.id::text and j.status in ('queued', 'running'))
    ),
    first as materialized (select o.id, o.score from open o order by o.score desc nulls last, o.id limit least(p_most, 1000))
    select coalesce(jsonb_agg(app.admit_lead_job(f.id, now(), null) order by f.score desc nulls last, f.id), '[]'),
           (select count(*) from open) - count(*)
      into v_jobs, v_left from first f;
    return jsonb_build_object('queued', v_jobs, 'left', v_left);
end
$$;
comment on function app.move_leads_of(uuid, integer) is 'Queues the assignment of an absent person''s open leads to others.';
grant execute on function app.move_leads_of(uuid, integer) to spine_caller;

reset role;
