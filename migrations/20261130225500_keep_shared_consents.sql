-- TikTok ends a consent for the account as a whole. Where another organisation has connected the account too, it is not taken back.
--
-- Locks:   none.
-- Rollout: expand.
-- Undo:    drop app.social_connected_elsewhere.

set local role spine_definer;

create function app.social_connected_elsewhere(p_api text, p_platform_id text) returns boolean
    language sql stable security definer set search_path = '' as $$
    select exists (select from public.social_accounts a
                    where a.platform_id = p_platform_id and a.api = p_api and a.status = 'active' and a.org_id <> app.service_org())
$$;
comment on function app.social_connected_elsewhere(text, text) is 'Whether another organisation has connected this account. It says yes or no, and nothing of the other.';
grant execute on function app.social_connected_elsewhere(text, text) to spine_service;

reset role;
