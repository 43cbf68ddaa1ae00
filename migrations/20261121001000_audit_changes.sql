-- Audit every change of people's and agents' tables by trigger, so that a write through the Data API is told like one through a function.
--
-- Locks:   organizations, profiles, roles, permissions, org_members, org_consultants, clients, client_consultants, client_users, agents,
--          agent_tokens, projects, project_images, project_tags, agent_limits, prompt_templates: share row exclusive, for the moment
--          that making a trigger takes; writers wait, readers do not.
-- Rollout: expand. From here on each change of these tables costs one more insert.
-- Undo:    drop the triggers, app.audit_table, app.audit_change, app.audit_entry, app.refuse, public.log_audit_action and the view.

-- Public functions are what the Data API calls; the definer makes them, and may for this migration alone.
grant create on schema public to spine_definer;
set local role spine_definer;

-- A refusal with a name: `status` is what the Data API answers with (its own convention: PT and the HTTP status), `code` is stable,
-- `detail` is for people.
create function app.refuse(status text, code text, detail text) returns void language plpgsql immutable set search_path = '' as $$
begin
    raise exception using errcode = status, message = code, detail = detail;
end
$$;
comment on function app.refuse(text, text, text) is 'Raises a named error: message is its stable code, detail says it to a person.';

-- What an entry says of one change. `p_key` names the columns that identify the row, `p_told` those whose values are nobody's personal
-- data. Of all others the log learns only that they changed. Neither is taken from the row, so that a column added later is silent
-- until somebody decides.
create function app.audit_entry(p_table text, p_was jsonb, p_is jsonb, p_key text[], p_told text[],
                                out org_id uuid, out record_id text, out changed jsonb, out old_values jsonb, out new_values jsonb,
                                out subject_ids uuid[])
    language sql immutable set search_path = '' as $$
    select case when p_table = 'organizations' then (r.row ->> 'id')::uuid else (r.row ->> 'org_id')::uuid end,
           (select string_agg(r.row ->> k.name, '/' order by k.place) from unnest(p_key) with ordinality k (name, place)),
           (select coalesce(jsonb_agg(c.key order by c.key), '[]') from jsonb_each(r.row) c
             where c.key <> 'updated_at' and (p_was is null or p_is is null or c.value is distinct from p_was -> c.key)),
           (select jsonb_object_agg(o.key, o.value) from jsonb_each(p_was) o where o.key = any (p_key || p_told)),
           (select jsonb_object_agg(n.key, n.value) from jsonb_each(p_is) n where n.key = any (p_key || p_told)),
           -- Whom it was taken from as well.
           array(select distinct (v.row ->> s.name)::uuid
                   from (values (p_was), (p_is)) v (row),
                        unnest(array['user_id', 'assigned_to', 'created_by', 'reviewer_id', 'accepted_by', 'invited_by', 'author_id',
                                     'approved_by', 'proposed_by'] || case when p_table = 'profiles' then array['id'] else '{}' end) s (name)
                  where v.row ->> s.name is not null)
      from (select coalesce(p_is, p_was) as row) r
$$;

-- Once for a statement, however many rows it changes. Arguments: the key, what may be told, and `people` where only their changes
-- are worth telling.
create function app.audit_change() returns trigger
    language plpgsql security definer set search_path = '' as $$
declare
    v_role   text   := current_setting('role');
    v_person boolean := v_role in ('authenticated', 'spine_caller');
    v_user   uuid   := case when v_person then app.uid() end;
    v_agent  uuid   := case when v_role = 'spine_agent' then app.agent_id() end;
    v_actor  text   := case when v_person then 'user' when v_role = 'spine_agent' then 'agent' else 'system' end;
    v_action text   := tg_table_name || '.' || lower(tg_op);
    v_key    text[] := string_to_array(tg_argv[0], ',');
    v_told   text[] := coalesce(string_to_array(nullif(tg_argv[1], ''), ','), '{}');
begin
    if tg_argv[2] = 'people' and not v_person then
        return null;
    end if;
    -- A transition table exists for its own operations only.
    if tg_op = 'INSERT' then
        insert into public.audit_log (org_id, user_id, agent_id, actor, action, resource_type, record_id, metadata, new_values, subject_ids)
        select e.org_id, v_user, v_agent, v_actor, v_action, tg_table_name, e.record_id, jsonb_build_object('changed', e.changed),
               e.new_values, e.subject_ids
          from new_rows n, lateral app.audit_entry(tg_table_name, null, to_jsonb(n), v_key, v_told) e;
    elsif tg_op = 'DELETE' then
        insert into public.audit_log (org_id, user_id, agent_id, actor, action, resource_type, record_id, metadata, old_values, subject_ids)
        select e.org_id, v_user, v_agent, v_actor, v_action, tg_table_name, e.record_id, jsonb_build_object('changed', e.changed),
               e.old_values, e.subject_ids
          from old_rows o, lateral app.audit_entry(tg_table_name, to_jsonb(o), null, v_key, v_told) e;
    else
        insert into public.audit_log (org_id, user_id, agent_id, actor, action, resource_type, record_id, metadata, old_values, new_values,
                                      subject_ids)
        select e.org_id, v_user, v_agent, v_actor, v_action, tg_table_name, e.record_id, jsonb_build_object('changed', e.changed),
               e.old_values, e.new_values, e.subject_ids
          -- A cascade may change a row twice in one statement: the first old goes with the first new.
          from (select y.*, row_number() over (partition by y.key order by y.place) as turn
                  from (select x.row, x.place, array(select x.row ->> k from unnest(v_key) k) as key
                          from (select to_jsonb(n) as row, row_number() over () as place from new_rows n) x) y) n
          join (select y.*, row_number() over (partition by y.key order by y.place) as turn
                  from (select x.row, x.place, array(select x.row ->> k from unnest(v_key) k) as key
                          from (select to_jsonb(o) as row, row_number() over () as place from old_rows o) x) y) o
            on o.key = n.key and o.turn = n.turn,
               lateral app.audit_entry(tg_table_name, o.row, n.row, v_key, v_told) e
         where e.changed <> '[]';
    end if;
    return null;
end
$$;
grant execute on function app.audit_change() to spine_owner;
comment on function app.audit_change() is
    'Appends who changed which rows to the audit log: names of the changed columns, and values of those named as not personal.';

-- Appends to the audit log with the session's context. Not for the Data API: there, triggers tell what happened.
create function public.log_audit_action(table_name text, record_id text, action text, user_id uuid) returns uuid
    language plpgsql volatile security definer set search_path = '' as $$
begin
    if coalesce(length(action), 0) not between 1 and 100 or coalesce(length(table_name), 0) not between 1 and 100
       or length(record_id) > 200 then
        perform app.refuse('PT422', 'action_invalid', 'An action and its table have 1 to 100 characters each, a record at most 200.');
    end if;
    if app.current_org_id() is null then
        perform app.refuse('PT403', 'organization_missing', 'An action is logged in an organisation; choose one you belong to.');
    end if;
    if current_setting('role') = 'spine_service' then
        return app.append_audit(action, table_name, record_id, null, null, null, jsonb_build_object('on_behalf_of', user_id),
                                null, null, null, case when user_id is not null then array[user_id] end);
    end if;
    if user_id is distinct from (case when current_setting('role') = 'spine_agent' then app.agent_id() else app.uid() end) then
        perform app.refuse('PT403', 'user_id_not_own', 'An action can be logged in one''s own name only.');
    end if;
    return app.append_audit(action, table_name, record_id, null, null, null, '{}', null, null, null, null);
end
$$;
comment on function public.log_audit_action(text, text, text, uuid) is
    'Appends an action to the audit log. Who acts is who runs the transaction; the system says on whose behalf.';
grant execute on function public.log_audit_action(text, text, text, uuid) to spine_caller, spine_agent, spine_service;

reset role;
revoke create on schema public from spine_definer;
set local role spine_owner;

create view public.audit_logs with (security_invoker = true) as select * from public.audit_log;
comment on view public.audit_logs is 'The audit log by the name that callers know. Its policies hold.';
grant select on public.audit_logs to authenticated, spine_service;

-- For migrations: has a table's changes told. `p_key` and `p_told` as in app.audit_entry, comma between; `p_verbs` and `p_whose` where
-- less than all is worth telling.
create procedure app.audit_table(p_table text, p_key text, p_told text default '', p_whose text default '',
                                 p_verbs text[] default '{insert,update,delete}')
    language plpgsql set search_path = '' as $$
declare
    v_verb text;
begin
    foreach v_verb in array p_verbs loop
        execute format('create trigger %I after %s on public.%I referencing %s for each statement execute function app.audit_change(%L, %L, %L)',
                       p_table || '_audit_' || v_verb, v_verb, p_table,
                       case v_verb when 'insert' then 'new table as new_rows' when 'delete' then 'old table as old_rows'
                                   else 'old table as old_rows new table as new_rows' end, p_key, p_told, p_whose);
    end loop;
end
$$;

call app.audit_table('organizations', 'id', 'slug,plan');
call app.audit_table('profiles', 'id', 'onboarding_complete');
call app.audit_table('roles', 'id', 'name');
call app.audit_table('permissions', 'id', 'role_id,resource,action');
call app.audit_table('org_members', 'org_id,user_id', 'role_id');
call app.audit_table('org_consultants', 'org_id,user_id', 'role');
call app.audit_table('clients', 'id', 'status');
call app.audit_table('client_consultants', 'client_id,user_id', 'role');
call app.audit_table('client_users', 'client_id,user_id', 'role');
call app.audit_table('agents', 'id', 'kind,role_id,status');
call app.audit_table('agent_tokens', 'id', 'agent_id,scopes,expires_at,revoked_at');
call app.audit_table('projects', 'id', 'client_id,status,published_at,approved_by,archived_at');
call app.audit_table('project_images', 'id', 'project_id,order_index');
call app.audit_table('project_tags', 'id', 'project_id');
call app.audit_table('agent_limits', 'id', 'agent,scope,scope_id,period,max_requests,max_tokens,max_cost_micro_usd');
call app.audit_table('prompt_templates', 'id', 'purpose,locale,version');

reset role;
