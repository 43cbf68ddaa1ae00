-- Record what an agent did elsewhere, as its own token or a person tells it: app.record_agent_action.
--
-- Locks:   permissions, assets, deploys, billing_events and outbox, for the moment that making a policy or lifting row-level security takes.
-- Rollout: expand.
-- Undo:    drop the functions and policies of this file, revoke what it grants, and delete the permission.

set local role spine_owner;

-- Owners and admins may all there is; of the others agents alone, each for itself.
alter table public.permissions no force row level security;
insert into public.permissions (role_id, resource, action) values ('00000000-0000-7000-8000-000000000007', 'agent_actions', 'create');
alter table public.permissions force row level security;

create policy assets_definer_select on public.assets for select to spine_definer using (true);
create policy assets_definer_insert on public.assets for insert to spine_definer with check (true);
grant select (id, org_id, bucket, path), insert on public.assets to spine_definer;
create policy deploys_definer_insert on public.deploys for insert to spine_definer with check (true);
grant insert on public.deploys to spine_definer;
create policy billing_events_definer_insert on public.billing_events for insert to spine_definer with check (true);
grant insert on public.billing_events to spine_definer;
create policy outbox_definer_insert on public.outbox for insert to spine_definer with check (true);
grant insert on public.outbox to spine_definer;

reset role;
set local role spine_definer;

-- Records an action in the name of whoever runs this transaction: audit entry, usage, charge, assets, deploy and document, or nothing.
--
-- `p_envelope` is a shared::envelope::Envelope as JSON, with personal values sealed. `p_assets` are files of the organisation that were read:
-- [{"bucket","path","mime","bytes","sha256"}], the last in hex. One that is recorded already stays as it is, and the action refers to it.
-- `p_deploy` is {"target","version","status","started_at","finished_at","metadata"} or null.
--
-- The agent is the one that agent_limits.agent names. An agent's kind is that name: agents of one kind share their limits, as people set
-- limits for a kind of work, and what an agent is called is for people to read. So an agent acts as its kind and as nothing else, and a
-- person for any kind that their organisation has an agent or a limit of.
--
-- `refused` says why nothing was recorded: action_reserved, agent_missing, agent_not_own, agent_unknown, project_unknown, subject_unknown
-- (the subject at `place`, from 0), too_large. `reached_scope` and `opens_at` are as app.claim_windows has them; then nothing was recorded but
-- the entry that a limit is reached. None of these tells of another organisation.
create function app.record_agent_action(
    p_id uuid, p_envelope jsonb, p_assets jsonb, p_deploy jsonb, p_ip text, p_user_agent text, p_request_id text,
    out agent_name text, out asset_ids uuid[], out deploy_id uuid, out refused text, out place integer,
    out reached_scope text, out opens_at timestamptz)
    language plpgsql volatile security definer set search_path = '' as $$
declare
    v_org      uuid   := app.current_org_id();
    v_role     text   := current_setting('role');
    v_user     uuid   := case when v_role = 'spine_caller' then app.uid() end;
    v_agent    uuid   := case when v_role = 'spine_agent' then app.agent_id() end;
    v_action   text   := p_envelope ->> 'action';
    v_project  uuid   := (p_envelope ->> 'project_id')::uuid;
    v_subjects uuid[] := array(select s.value::uuid from jsonb_array_elements_text(p_envelope -> 'subjects') with ordinality s (value, place)
                                order by s.place);
    v_cost     jsonb  := p_envelope -> 'cost';
    v_requests bigint := (v_cost ->> 'requests')::bigint;
    v_tokens   bigint := (v_cost ->> 'tokens')::bigint;
    v_micro    bigint := (v_cost ->> 'cost_micro_usd')::bigint;
    v_asset    uuid;
    c          record;
    f          record;
begin
    if v_org is null or coalesce(v_user, v_agent) is null
       or not coalesce(case v_role when 'spine_agent' then app.agent_may('agent_actions:create')
                                   when 'spine_caller' then app.may('agent_actions:create') end, false) then
        raise exception 'no action of an agent may be recorded' using errcode = 'insufficient_privilege';
    end if;

    agent_name := p_envelope ->> 'agent';
    if v_agent is not null then
        if agent_name is distinct from (select a.kind from public.agents a where a.org_id = v_org and a.id = v_agent) and agent_name is not null then
            refused := 'agent_not_own';
            return;
        end if;
        agent_name := (select a.kind from public.agents a where a.org_id = v_org and a.id = v_agent);
    elsif agent_name is null then
        refused := 'agent_missing';
        return;
    elsif not exists (select from public.agents a where a.org_id = v_org and a.kind = agent_name)
          and not exists (select from public.agent_limits l where l.org_id = v_org and l.agent = agent_name) then
        refused := 'agent_unknown';
        return;
    end if;
    -- What Spine itself writes into the log nobody else writes.
    if v_action ~ '\.(insert|update|delete)$'
       or split_part(v_action, '.', 1) in ('billing', 'insight', 'job', 'lead', 'lead_assignment', 'limit', 'render', 'stripe') then
        refused := 'action_reserved';
        return;
    end if;
    if v_project is not null and not exists (select from public.projects p where p.org_id = v_org and p.id = v_project) then
        refused := 'project_unknown';
        return;
    end if;
    select s.place - 1 into place
      from unnest(v_subjects) with ordinality s (id, place)
     where not exists (select from public.org_members m where m.org_id = v_org and m.user_id = s.id)
       and not exists (select from public.org_consultants m where m.org_id = v_org and m.user_id = s.id)
       and not exists (select from public.client_users m where m.org_id = v_org and m.user_id = s.id)
     order by s.place limit 1;
    if found then
        refused := 'subject_unknown';
        return;
    end if;
    -- As the log bounds an entry, less what the metadata below take.
    if pg_column_size(p_envelope -> 'input') + pg_column_size(p_envelope -> 'decision') + pg_column_size(p_envelope -> 'output') > 258048 then
        refused := 'too_large';
        return;
    end if;

    select x.* into c from app.claim_windows(v_org, agent_name, coalesce(v_user, v_agent), v_project, v_requests, v_tokens, v_micro) x;
    if c.windows is null then
        reached_scope := c.reached_scope;
        opens_at := c.opens_at;
        return;
    end if;
    perform app.apply_usage(v_org, agent_name, c.windows, -v_requests, -v_tokens, -v_micro, v_requests, v_tokens, v_micro);

    asset_ids := '{}';
    for f in select * from jsonb_to_recordset(p_assets) as x (bucket text, path text, mime text, bytes bigint, sha256 text) loop
        v_asset := app.uuidv7();
        insert into public.assets (id, org_id, kind, bucket, path, mime, bytes, sha256, created_by_user, created_by_agent, source_table, source_id)
        values (v_asset, v_org, 'agent_action', f.bucket, f.path, f.mime, f.bytes, decode(f.sha256, 'hex'), v_user, v_agent, 'audit_log', p_id)
        on conflict (bucket, path) do nothing;
        if not found then
            select a.id into strict v_asset from public.assets a where a.org_id = v_org and a.bucket = f.bucket and a.path = f.path;
        end if;
        asset_ids := asset_ids || v_asset;
    end loop;
    if p_deploy is not null then
        deploy_id := app.uuidv7();
        insert into public.deploys (id, org_id, target, version, status, started_at, finished_at, actor, metadata)
        values (deploy_id, v_org, p_deploy ->> 'target', p_deploy ->> 'version', p_deploy ->> 'status', (p_deploy ->> 'started_at')::timestamptz,
                (p_deploy ->> 'finished_at')::timestamptz, agent_name, p_deploy -> 'metadata');
    end if;
    if v_micro > 0 then
        insert into public.billing_events (org_id, kind, quantity, cost_micro_usd, source_table, source_id)
        values (v_org, 'agent_action', v_requests, v_micro, 'audit_log', p_id);
    end if;
    insert into public.audit_log (id, org_id, user_id, agent_id, actor, action, resource_type, record_id, input, decision, output, metadata,
                                  ip, user_agent, request_id, subject_ids)
    values (p_id, v_org, v_user, v_agent, case when v_agent is null then 'user' else 'agent' end, v_action,
            p_envelope #>> '{resource,type}', p_envelope #>> '{resource,id}',
            p_envelope -> 'input', p_envelope -> 'decision', p_envelope -> 'output',
            jsonb_strip_nulls(jsonb_build_object('agent', agent_name, 'assets', asset_ids, 'deploy', deploy_id, 'project_id', v_project, 'cost', v_cost)),
            p_ip, p_user_agent, p_request_id, v_subjects);
    insert into public.outbox (id, org_id, kind, destination, payload)
    values (p_id, v_org, 'document', 'agent_outputs',
            p_envelope || jsonb_build_object('kind', 'agent_action', 'agent', agent_name, 'assets', asset_ids, 'deploy', deploy_id,
                                             'recorded_by', coalesce(v_user, v_agent)));
end
$$;
comment on function app.record_agent_action(uuid, jsonb, jsonb, jsonb, text, text, text) is
    'Records what an agent did elsewhere: audit entry, usage, charge, assets, deploy and document, or nothing.';

-- What the caller recorded under this id: {"agent","assets","deploy"}. Null if they recorded nothing under it.
create function app.recorded_agent_action(p_id uuid) returns jsonb
    language sql stable security definer set search_path = '' as $$
    select jsonb_build_object('agent', o.payload -> 'agent', 'assets', o.payload -> 'assets', 'deploy', o.payload -> 'deploy')
      from public.outbox o
     where o.id = p_id and o.org_id = app.current_org_id() and o.payload ->> 'kind' = 'agent_action'
       and o.payload ->> 'recorded_by' = (case when current_setting('role') = 'spine_agent' then app.agent_id() else app.uid() end)::text
$$;
comment on function app.recorded_agent_action(uuid) is 'What the caller recorded under this id, for the answer to a repetition.';

grant execute on function app.record_agent_action(uuid, jsonb, jsonb, jsonb, text, text, text), app.recorded_agent_action(uuid)
    to spine_caller, spine_agent;

reset role;
