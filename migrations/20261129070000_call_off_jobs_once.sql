-- Say of a job that is called off whether this call did it.
--
-- Locks:   none.
-- Rollout: expand; running code goes on with app.cancel_job.
-- Undo:    make app.cancel_job as it was made before, and drop app.call_off_job.

set local role spine_definer;

-- Cancels a job: at once while it waits, at its next step while it runs. `was` is what it was when this call cancelled it, and null
-- where this call changed nothing: it had ended, or somebody had cancelled it before. `status` is what it is now; null if there is no
-- such job, or it is not theirs to cancel.
-- Callers check first that the person may see the job; this checks that they may cancel it.
create function app.call_off_job(p_job uuid, out was text, out status text)
    language plpgsql volatile security definer set search_path = '' as $$
declare
    v_role  text := current_setting('role');
    v_org   uuid := app.current_org_id();
    v_actor uuid := case when v_role = 'spine_agent' then app.agent_id() else app.uid() end;
    j       public.jobs;
begin
    select * into j from public.jobs x
     where x.org_id = v_org and x.id = p_job
       and (x.created_by = v_actor or (v_role = 'spine_caller' and app.may('jobs:cancel'))) for update;
    if not found then
        return;
    end if;
    status := j.status;
    if j.status = 'queued' then
        update public.jobs x set status = 'cancelled', finished_at = now(), cancel_requested_at = now(), wait_reason = null where x.id = j.id;
        update public.render_requests r set status = 'cancelled', completed_at = now()
         where r.org_id = v_org and r.job_id = j.id and r.status in ('queued', 'running');
        perform app.refund_job(j.id);
        was := j.status;
        status := 'cancelled';
    elsif j.status = 'running' and j.cancel_requested_at is null then
        update public.jobs x set cancel_requested_at = now() where x.id = j.id;
        was := j.status;
    end if;
end
$$;
comment on function app.call_off_job(uuid) is
    'Cancels a job, at once or at its next step. was: what it was when this call cancelled it; status: what it is now.';
revoke execute on function app.call_off_job(uuid) from public;
grant execute on function app.call_off_job(uuid) to spine_caller, spine_agent;

-- For code that runs still.
create or replace function app.cancel_job(p_job uuid) returns text
    language sql volatile security definer set search_path = '' as $$
    select c.status from app.call_off_job(p_job) c
$$;

reset role;
