-- Measure how old readings of social accounts are, and find what is known of a post's comments.
--
-- Locks:   social_accounts and social_threads while indexes are made.
-- Rollout: expand.
-- Undo:    drop the function and the indexes of this file.

set local role spine_definer;

-- How many accounts wait for a person, and how many minutes ago the reading of the account began that was read longest ago. Numbers alone.
create function app.social_readings(p_now timestamptz, out to_reconnect bigint, out oldest_minutes double precision)
    language sql stable security definer set search_path = '' as $$
    select (select count(*) from public.social_accounts a where a.status = 'needs_reconsent'),
           coalesce(greatest(0, extract(epoch from p_now - (
               select min(coalesce(a.fetched_at, a.created_at)) from public.social_accounts a where a.status = 'active')) / 60), 0)
$$;
comment on function app.social_readings(timestamptz) is 'How many social accounts wait for a person, and how old the oldest reading of one is.';

grant execute on function app.social_readings(timestamptz) to spine_service;

reset role;
set local role spine_owner;

grant select (fetched_at, created_at) on public.social_accounts to spine_definer;
create index social_accounts_reconsent_idx on public.social_accounts (status) where status = 'needs_reconsent';
create index social_accounts_oldest_idx on public.social_accounts (coalesce(fetched_at, created_at)) where status = 'active';
create index social_threads_org_id_media_id_idx on public.social_threads (org_id, account_id, media_id) where media_id is not null;

reset role;
