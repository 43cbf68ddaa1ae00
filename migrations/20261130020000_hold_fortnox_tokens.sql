-- Hold the tokens of a connection so that one process at a time renews them, and use an OAuth state once, in the browser that began it.
--
-- Locks:   org_integrations and oauth_states exclusively, for the moment that columns, a check and an index take; permissions exclusively,
--          for one insert.
-- Rollout: expand.
-- Undo:    drop the functions, the index and the columns of this file, make the check again as it was, and delete the permission.

set local role spine_owner;

alter table public.permissions no force row level security;
insert into public.permissions (role_id, resource, action) values ('00000000-0000-7000-8000-000000000008', 'integrations', 'manage');
alter table public.permissions force row level security;

alter table public.org_integrations
    add column grant_type text not null default 'refresh_token',
    add column issued_at timestamptz,
    add column uncertain_since timestamptz,
    add column connected_by uuid references public.profiles (id) on delete set null,
    drop constraint org_integrations_status_check,
    add constraint org_integrations_status_check check (status in ('connected', 'reconnect', 'expired', 'revoked', 'disconnected')),
    add constraint org_integrations_grant_type_check check (grant_type in ('refresh_token', 'client_credentials'));
comment on column public.org_integrations.status is
    'reconnect: its tokens are lost or no longer accepted, and a person must consent again. disconnected: by a person; what was read stays.';
comment on column public.org_integrations.refreshing_since is 'Since when a process is renewing the tokens. Another goes on after a minute.';
comment on column public.org_integrations.uncertain_since is
    'Since when it is not known whether the provider has taken the refresh token: it was sent, and nothing came back.';
comment on column public.org_integrations.issued_at is 'When the refresh token was issued. It dies unused after 45 days.';
create index org_integrations_connected_by_idx on public.org_integrations (connected_by);
-- A company's books are one organisation's.
create unique index org_integrations_company_key on public.org_integrations (provider, external_tenant_id)
    where status in ('connected', 'reconnect');
revoke insert on public.org_integrations from spine_service;
grant insert (org_id, provider, status, external_tenant_id, company, scopes, access_token, refresh_token, token_version, expires_at, grant_type,
              issued_at, connected_by) on public.org_integrations to spine_service;
grant update (grant_type, issued_at, uncertain_since, connected_by) on public.org_integrations to spine_service;

alter table public.oauth_states
    add column browser_hash bytea,
    add constraint oauth_states_browser_hash_check check (length(browser_hash) = 32);
comment on column public.oauth_states.browser_hash is 'SHA-256 of what the browser that began it keeps in a cookie.';

create policy oauth_states_definer_select on public.oauth_states for select to spine_definer using (true);
create policy oauth_states_definer_update on public.oauth_states for update to spine_definer using (true);
grant select on public.oauth_states to spine_definer;
grant update (used_at) on public.oauth_states to spine_definer;

reset role;
set local role spine_definer;

-- Uses a state, once. `outcome`: ok; unknown; expired; replayed; foreign, if another browser brings it; revoked, if who began it may not
-- connect any more. Organisation and person are returned where the state is known, for the entry in the log.
create function app.use_oauth_state(p_state_hash bytea, p_provider text, p_browser_hash bytea,
                                    out outcome text, out org_id uuid, out user_id uuid, out redirect_to text)
    language plpgsql volatile security definer set search_path = '' as $$
#variable_conflict use_column
declare
    s public.oauth_states;
begin
    select * into s from public.oauth_states x where x.state_hash = p_state_hash and x.provider = p_provider for update;
    if not found then
        outcome := 'unknown';
        return;
    end if;
    outcome := case when s.used_at is not null then 'replayed'
                    when s.expires_at <= clock_timestamp() then 'expired'
                    when s.browser_hash is distinct from p_browser_hash then 'foreign'
                    when not app.person_may(s.org_id, s.user_id, 'integrations:manage') then 'revoked'
                    else 'ok' end;
    -- Another browser does not use it up: that would let somebody else end what a person has begun.
    if outcome in ('ok', 'revoked') then
        update public.oauth_states x set used_at = clock_timestamp() where x.state_hash = p_state_hash;
    end if;
    org_id := s.org_id;
    user_id := s.user_id;
    -- To another browser nothing is said of where it was to lead.
    redirect_to := case when outcome <> 'foreign' then s.redirect_to end;
end
$$;
comment on function app.use_oauth_state(bytea, text, bytea) is 'Uses the state of a connection that was begun, once, in the browser that began it.';

-- Whether a company is connected in another organisation. It says yes or no, and nothing of the other.
create function app.connected_elsewhere(p_provider text, p_tenant text) returns boolean
    language sql stable security definer set search_path = '' as $$
    select exists (select from public.org_integrations i
                    where i.provider = p_provider and i.external_tenant_id = p_tenant and i.status in ('connected', 'reconnect')
                      and i.org_id <> app.service_org())
$$;
comment on function app.connected_elsewhere(text, text) is 'Whether another organisation has connected this company.';

grant execute on function app.use_oauth_state(bytea, text, bytea), app.connected_elsewhere(text, text)
    to spine_service;

reset role;
