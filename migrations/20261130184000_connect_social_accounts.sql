-- Connect social accounts by OAuth: hold their tokens so that one process at a time renews them, and notify before a consent ends.
--
-- Locks:   social_accounts and oauth_states exclusively, for the moment that columns and checks take, and social_accounts while an index is made.
-- Rollout: expand.
-- Undo:    drop the functions, indexes and columns of this file, and make the check of oauth_states again as it was.

set local role spine_owner;

alter table public.social_accounts
    add column app_scoped_id    text,
    add column token_version    integer     not null default 0,
    add column issued_at        timestamptz,
    add column refreshing_since timestamptz,
    add column uncertain_since  timestamptz,
    add column consent_ends_at  timestamptz,
    add column warned_version   integer,
    add column connected_by     uuid        references public.profiles (id) on delete set null,
    add column connected_at     timestamptz,
    add column subscribed_at    timestamptz,
    add column lost_why         text,
    add column deletion_code    text,
    add constraint social_accounts_app_scoped_id_check check (length(app_scoped_id) between 1 and 500),
    add constraint social_accounts_lost_why_check
        check (lost_why in ('token_refused', 'consent_ended', 'deauthorized', 'deletion_asked', 'authorization_removed')),
    add constraint social_accounts_deletion_code_check check (deletion_code ~ '^[0-9a-f]{32}$');
comment on column public.social_accounts.app_scoped_id is 'Who consented, as the platform calls them towards this application. Meta names accounts so when it takes a consent back.';
comment on column public.social_accounts.token_version is 'Rises each time that tokens are stored.';
comment on column public.social_accounts.issued_at is 'When the tokens were issued. An Instagram token can be extended a day later.';
comment on column public.social_accounts.refreshing_since is 'Since when a process is renewing the tokens. Another goes on after a minute.';
comment on column public.social_accounts.uncertain_since is
    'Since when it is not known whether the platform has taken the refresh token: it was sent, and nothing came back.';
comment on column public.social_accounts.consent_ends_at is
    'When a person must consent again unless tokens are renewed before: the end of Instagram''s token, or of TikTok''s refresh token.';
comment on column public.social_accounts.warned_version is 'The version of the tokens whose end people were notified of.';
comment on column public.social_accounts.connected_at is 'When a person last consented. What the platform took back before that says nothing of this consent.';
comment on column public.social_accounts.subscribed_at is
    'When the platform was last asked to deliver what happens to the account. Null: it is to be asked, as after every consent.';
comment on column public.social_accounts.lost_why is 'Why a person must connect it again.';
comment on column public.social_accounts.deletion_code is 'What Meta was given for whoever asked it to have this account''s data deleted.';
create index social_accounts_connected_by_idx on public.social_accounts (connected_by);
create index social_accounts_app_scoped_id_idx on public.social_accounts (app_scoped_id) where app_scoped_id is not null;
create index social_accounts_consent_ends_at_idx on public.social_accounts (consent_ends_at) where status = 'active' and consent_ends_at is not null;
create index social_accounts_deletion_code_idx on public.social_accounts (deletion_code) where deletion_code is not null;
grant select (consent_ends_at, connected_by, connected_at, subscribed_at, lost_why) on public.social_accounts to authenticated, spine_agent;
revoke insert on public.social_accounts from spine_service;
grant insert (id, org_id, platform, platform_id, username, access_token, refresh_token, token_expires_at, status, region, api, scopes, app_scoped_id,
              token_version, issued_at, consent_ends_at, connected_by, connected_at),
      update (app_scoped_id, token_version, issued_at, refreshing_since, uncertain_since, consent_ends_at, connected_by, connected_at, subscribed_at,
              lost_why, deletion_code)
    on public.social_accounts to spine_service;
grant select (app_scoped_id, connected_at, consent_ends_at, token_version, warned_version, deletion_code), update (warned_version)
    on public.social_accounts to spine_definer;

alter table public.oauth_states
    drop constraint oauth_states_provider_check,
    add constraint oauth_states_provider_check check (provider in ('fortnox', 'instagram', 'tiktok', 'tiktok_business'));

reset role;
set local role spine_definer;

-- The accounts that Meta means by an id, in all organisations, that were connected before a time. Ids alone.
create function app.social_accounts_of(p_id text, p_at timestamptz) returns table (org_id uuid, account_id uuid)
    language plpgsql stable security definer set search_path = '' set enable_seqscan = off as $$
begin
    if current_setting('role') <> 'spine_service' then
        raise exception 'the system looks accounts up' using errcode = 'insufficient_privilege';
    end if;
    return query
        select a.org_id, a.id from public.social_accounts a
         where a.app_scoped_id = p_id and a.platform = 'instagram' and (a.connected_at is null or a.connected_at <= p_at)
        union
        select a.org_id, a.id from public.social_accounts a
         where a.platform_id = p_id and a.platform = 'instagram' and (a.connected_at is null or a.connected_at <= p_at)
         order by 1, 2;
end
$$;
comment on function app.social_accounts_of(text, timestamptz) is
    'The Instagram accounts of an id, in all organisations, that were connected before a time.';

-- Whether a deletion was asked for under this code.
create function app.knows_deletion(p_code text) returns boolean
    language sql stable security definer set search_path = '' as $$
    select exists (select from public.social_accounts a where a.deletion_code = p_code)
$$;
comment on function app.knows_deletion(text) is 'Whether the deletion of an account''s data was asked for under this code.';

-- Notifies people of consents that end within fourteen days, once for each version of the tokens. How many.
create function app.warn_of_ending_consents(p_now timestamptz, p_most integer) returns integer
    language plpgsql volatile security definer set search_path = '' as $$
declare
    a        record;
    v_warned integer := 0;
begin
    if current_setting('role') <> 'spine_service' then
        raise exception 'the system warns' using errcode = 'insufficient_privilege';
    end if;
    for a in select x.id, x.org_id, x.platform, x.token_version, x.consent_ends_at from public.social_accounts x
              where x.status = 'active' and x.consent_ends_at is not null and x.consent_ends_at <= p_now + interval '14 days'
                and x.warned_version is distinct from x.token_version
              order by x.consent_ends_at limit least(p_most, 1000) for update skip locked
    loop
        perform app.notify_holders(a.org_id, 'integrations:manage', 'connection_needs_person',
                                   jsonb_build_object('account_id', a.id, 'provider', a.platform, 'status', 'ending', 'ends_at', a.consent_ends_at),
                                   a.id || ':ending:' || a.token_version);
        update public.social_accounts x set warned_version = a.token_version where x.id = a.id;
        v_warned := v_warned + 1;
    end loop;
    return v_warned;
end
$$;
comment on function app.warn_of_ending_consents(timestamptz, integer) is 'Notifies people of consents that end within fourteen days. How many.';

grant execute on function app.social_accounts_of(text, timestamptz), app.knows_deletion(text), app.warn_of_ending_consents(timestamptz, integer)
    to spine_service;

reset role;
