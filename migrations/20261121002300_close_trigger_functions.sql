-- Close the trigger functions to all but the tables' owner, and let an organisation forget a person.
--
-- Locks:   subject_keys for the moment that making a policy takes.
-- Rollout: expand. Triggers that exist go on: who may execute a function is asked when a trigger is made.
-- Undo:    grant execute on them to public again.

-- Whoever may make a temporary table could hang them on it, and have the definer act on rows of their invention.
do $$
declare
    f record;
begin
    for f in select p.oid::regprocedure as signature, pg_get_userbyid(p.proowner) as owner from pg_catalog.pg_proc p
              where p.pronamespace = 'app'::regnamespace and p.prorettype = 'trigger'::regtype loop
        if f.owner in ('spine_owner', 'spine_definer') then
            execute format('set local role %I', f.owner);
        end if;
        execute format('revoke execute on function %s from public', f.signature);
        execute format('grant execute on function %s to spine_owner', f.signature);
        reset role;
    end loop;
end
$$;

set local role spine_owner;
create policy subject_keys_definer_update on public.subject_keys for update to spine_definer using (true);
grant update (wrapped_key, destroyed_at) on public.subject_keys to spine_definer;
reset role;
set local role spine_definer;

-- Destroys a person's key in the system's organisation: what the audit log sealed under it cannot be read any more.
-- Whether this did it, and not an earlier call.
create function app.destroy_subject_key(p_subject uuid) returns boolean
    language plpgsql volatile security definer set search_path = '' as $$
begin
    -- Whoever had none gets one that is destroyed, so that nothing is recorded of them from now on.
    insert into public.subject_keys as k (org_id, subject_id, destroyed_at) values (app.service_org(), p_subject, now())
    on conflict (org_id, subject_id) do update set wrapped_key = null, destroyed_at = excluded.destroyed_at
     where k.destroyed_at is null;
    return found;
end
$$;
comment on function app.destroy_subject_key(uuid) is 'Erases a person from the organisation''s audit log by destroying their key; digests stay valid.';
grant execute on function app.destroy_subject_key(uuid) to spine_service;
reset role;
