-- Name the agent in the entries of assigned leads, as the entries of all other agents name it.
--
-- app.assign_lead is changed in this one place and kept as it is otherwise, whichever migration made it last.
--
-- Locks:   none.
-- Rollout: expand.
-- Undo:    create or replace app.assign_lead without the key 'agent'.

set local role spine_definer;

do $$
declare
    v_was text := pg_get_functiondef('app.assign_lead(uuid, jsonb)'::regprocedure);
    v_is  text := replace(v_was, $was$jsonb_build_object('job_id', p_ai ->> 'job_id',$was$,
                                 $is$jsonb_build_object('agent', 'lead_assigner', 'job_id', p_ai ->> 'job_id',$is$);
begin
    if v_is = v_was then
        raise exception 'app.assign_lead does not say which job it works on';
    end if;
    execute v_is;
end
$$;

reset role;
