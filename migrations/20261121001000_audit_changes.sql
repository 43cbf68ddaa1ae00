-- Audit every change of people's and agents' tables by trigger, so that a write through the Data API is told like one through a function.
--
-- Locks:   organizations, profiles, roles, permissions, org_members, org_consultants, clients, client_consultants, client_users, agents,
--          agent_tokens, projects, project_images, project_tags, agent_limits, prompt_templates: share row exclusive, for the moment
--          that making a trigger takes; writers wait, readers do not.
-- Rollout: expand. From here on each change of these tables costs one more insert.
-- Undo:    drop the triggers, app.audit_change, app.refuse, public.log_audit_action and the view.

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

-- Arguments: the columns that identify the row, then those whose values are nobody's personal data. Of all others the log learns
-- only that they changed. Neither list is taken from the row, so that a column added later is silent until somebody decides.
create function app.audit_change() returns trigger
    language plpgsql security definer set search_path = '' as $$
declare
    v_role    text  := current_setting('role');
    v_old     jsonb := case when tg_op <> 'INSERT' then to_jsonb(old) end;
    v_new     jsonb := case when tg_op <> 'DELETE' then to_jsonb(new) end;
    v_row     jsonb := coalesce(v_new, v_old);
    v_told    text[] := string_to_array(tg_argv[0], ',') || coalesce(string_to_array(nullif(tg_argv[1], ''), ','), '{}');
    v_changed text[];
begin
    select coalesce(array_agg(c.key order by c.key), '{}') into v_changed
      from jsonb_each(v_row) c
     where c.key <> 'updated_at' and (tg_op <> 'UPDATE' or c.value is distinct from v_old -> c.key);
    if tg_op = 'UPDATE' and v_changed = '{}' then
        return null;
    end if;
    insert into public.audit_log (org_id, user_id, agent_id, actor, action, resource_type, record_id, metadata, old_values, new_values,
                                  subject_ids)
    values (case when tg_table_name = 'organizations' then (v_row ->> 'id')::uuid
                 when v_row ? 'org_id' then (v_row ->> 'org_id')::uuid end,
            case when v_role in ('authenticated', 'spine_caller') then app.uid() end,
            case when v_role = 'spine_agent' then app.agent_id() end,
            case when v_role in ('authenticated', 'spine_caller') then 'user' when v_role = 'spine_agent' then 'agent' else 'system' end,
            tg_table_name || '.' || lower(tg_op), tg_table_name,
            (select string_agg(v_row ->> k.name, '/' order by k.place)
               from unnest(string_to_array(tg_argv[0], ',')) with ordinality k (name, place)),
            jsonb_build_object('changed', to_jsonb(v_changed)),
            (select jsonb_object_agg(o.key, o.value) from jsonb_each(v_old) o where o.key = any (v_told)),
            (select jsonb_object_agg(n.key, n.value) from jsonb_each(v_new) n where n.key = any (v_told)),
            case when v_row ? 'user_id' and v_row ->> 'user_id' is not null then array[(v_row ->> 'user_id')::uuid]
                 when tg_table_name = 'profiles' then array[(v_row ->> 'id')::uuid] else '{}' end);
    return null;
end
$$;
comment on function app.audit_change() is
    'Appends who changed which row to the audit log: names of the changed columns, and values of those named as not personal.';
grant execute on function app.audit_change() to public;

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

do $$
declare
    told record;
begin
    for told in
        select * from (values
            ('organizations', 'id', 'slug,plan'), ('profiles', 'id', 'onboarding_complete'), ('roles', 'id', 'name'),
            ('permissions', 'id', 'role_id,resource,action'), ('org_members', 'org_id,user_id', 'role_id'),
            ('org_consultants', 'org_id,user_id', 'role'), ('clients', 'id', 'status'),
            ('client_consultants', 'client_id,user_id', 'role'), ('client_users', 'client_id,user_id', 'role'),
            ('agents', 'id', 'kind,role_id,status'), ('agent_tokens', 'id', 'agent_id,scopes,expires_at,revoked_at'),
            ('projects', 'id', 'category,client_id,status,published_at,approved_by,archived_at'),
            ('project_images', 'id', 'project_id,order_index'), ('project_tags', 'id', 'project_id'),
            ('agent_limits', 'id', 'agent,scope,scope_id,period,max_requests,max_tokens,max_cost_micro_usd'),
            ('prompt_templates', 'id', 'purpose,locale,version')) as t (name, key, plain)
    loop
        execute format('create trigger %I after insert or update or delete on public.%I for each row execute function app.audit_change(%L, %L)',
                       told.name || '_audit', told.name, told.key, told.plain);
    end loop;
end
$$;

reset role;
