-- Create social accounts, messages by month, their keys, analytics, sentiment and cursors.
--
-- Locks:   data_ownership exclusively, for one insert.
-- Rollout: expand. Months are made as messages arrive.
-- Undo:    drop the six tables and app.ensure_social_month.

set local role spine_owner;

create table public.social_accounts (
    id               uuid        primary key default app.uuidv7(),
    org_id           uuid        not null references public.organizations (id) on delete cascade,
    platform         text        not null,
    platform_id      text        not null,
    username         text        not null,
    access_token     text,
    refresh_token    text,
    token_expires_at timestamptz,
    status           text        not null default 'active',
    region           text,
    created_at       timestamptz not null default now(),
    updated_at       timestamptz not null default now(),

    constraint social_accounts_org_id_id_key unique (org_id, id),
    -- A webhook names the account alone: it must lead to one organisation.
    constraint social_accounts_platform_platform_id_key unique (platform, platform_id),
    constraint social_accounts_platform_check check (platform in ('instagram', 'facebook', 'tiktok')),
    constraint social_accounts_username_check check (length(username) between 1 and 200),
    constraint social_accounts_status_check check (status in ('active', 'expired', 'disconnected'))
);
comment on table public.social_accounts is 'An account on a social platform that the organisation has connected.';
comment on column public.social_accounts.access_token is 'Sealed before it reaches SQL, as is refresh_token; never granted to a person.';
create index social_accounts_org_id_created_at_idx on public.social_accounts (org_id, created_at desc);

create table public.social_message_keys (
    org_id      uuid        not null,
    account_id  uuid        not null,
    platform_id text        not null,
    message_id  uuid        not null,
    received_at timestamptz not null,
    primary key (account_id, platform_id),
    constraint social_message_keys_org_id_message_id_key unique (org_id, message_id),
    constraint social_message_keys_platform_id_check check (length(platform_id) between 1 and 500),
    constraint social_message_keys_org_id_account_id_fkey
        foreign key (org_id, account_id) references public.social_accounts (org_id, id) on delete cascade
);
comment on table public.social_message_keys is 'One row for each message of a platform: what makes an upsert possible over months, and what others refer to.';
create index social_message_keys_org_id_account_id_idx on public.social_message_keys (org_id, account_id);

-- No foreign key points here or leads away: attaching a month would lock the table at its other end. The policy asks for the account,
-- and messages go with it by a trigger.
create table public.social_messages (
    id           uuid        not null default app.uuidv7(),
    org_id       uuid        not null,
    account_id   uuid        not null,
    message_type text        not null,
    content      text,
    sender_id    text,
    received_at  timestamptz not null,
    status       text        not null default 'new',
    thread_id    text,
    platform_id  text        not null,
    deleted_at   timestamptz,
    created_at   timestamptz not null default now(),
    updated_at   timestamptz not null default now(),

    constraint social_messages_pkey primary key (id, received_at),
    constraint social_messages_message_type_check check (message_type in ('message', 'comment', 'mention', 'reply', 'story_reply', 'review')),
    constraint social_messages_status_check check (status in ('new', 'read', 'answered', 'archived')),
    constraint social_messages_size_check
        check (length(content) <= 50000 and length(platform_id) between 1 and 500 and length(sender_id) <= 500 and length(thread_id) <= 500)
) partition by range (received_at);
comment on table public.social_messages is 'Messages, comments and mentions, a partition for each month of received_at. Months are made on demand, history included.';
create index social_messages_org_id_received_at_idx on public.social_messages (org_id, received_at desc);
create index social_messages_org_id_account_id_idx on public.social_messages (org_id, account_id, received_at desc);
create index social_messages_org_id_thread_id_idx on public.social_messages (org_id, thread_id, received_at) where thread_id is not null;

create table public.social_analytics (
    id          uuid        primary key default app.uuidv7(),
    org_id      uuid        not null,
    account_id  uuid        not null,
    metric_type text        not null,
    value       numeric     not null,
    recorded_at timestamptz not null,
    constraint social_analytics_account_id_metric_type_recorded_at_key unique (account_id, metric_type, recorded_at),
    constraint social_analytics_metric_type_check check (metric_type ~ '^[a-z_]{1,60}$'),
    constraint social_analytics_org_id_account_id_fkey
        foreign key (org_id, account_id) references public.social_accounts (org_id, id) on delete cascade
);
comment on table public.social_analytics is 'A figure of an account at a time, as the platform tells it.';
create index social_analytics_org_id_account_id_idx on public.social_analytics (org_id, account_id, metric_type, recorded_at desc);

create table public.social_sentiment (
    id              uuid         primary key default app.uuidv7(),
    org_id          uuid         not null,
    message_id      uuid         not null,
    sentiment_score numeric(4,3) not null,
    model_used      text         not null,
    created_at      timestamptz  not null default now(),
    constraint social_sentiment_message_id_model_used_key unique (message_id, model_used),
    constraint social_sentiment_sentiment_score_check check (sentiment_score between -1 and 1),
    constraint social_sentiment_org_id_message_id_fkey
        foreign key (org_id, message_id) references public.social_message_keys (org_id, message_id) on delete cascade
);
comment on table public.social_sentiment is 'How a message sounds to a model, from -1 to 1.';
create index social_sentiment_org_id_message_id_idx on public.social_sentiment (org_id, message_id);

create table public.social_cursors (
    org_id     uuid        not null,
    account_id uuid        not null,
    stream     text        not null,
    cursor     text,
    synced_at  timestamptz not null default now(),
    primary key (account_id, stream),
    constraint social_cursors_stream_check check (stream ~ '^[a-z_]{1,60}$'),
    constraint social_cursors_org_id_account_id_fkey
        foreign key (org_id, account_id) references public.social_accounts (org_id, id) on delete cascade
);
comment on table public.social_cursors is 'How far each stream of an account was read.';
create index social_cursors_org_id_account_id_idx on public.social_cursors (org_id, account_id);

do $$
declare
    made text;
begin
    foreach made in array array['social_accounts', 'social_message_keys', 'social_messages', 'social_analytics', 'social_sentiment', 'social_cursors'] loop
        execute format('alter table public.%I enable row level security', made);
        execute format('alter table public.%I force row level security', made);
        execute format('create policy %I on public.%I for select to spine_service using (org_id = (select app.service_org()))',
                       made || '_service_select', made);
        if made <> 'social_messages' then
            execute format('create policy %I on public.%I for insert to spine_service with check (org_id = (select app.service_org()))',
                           made || '_service_insert', made);
        end if;
        execute format('grant select, insert on public.%I to spine_service', made);
    end loop;
    foreach made in array array['social_accounts', 'social_message_keys', 'social_messages', 'social_analytics', 'social_cursors'] loop
        execute format('create policy %I on public.%I for update to spine_service using (org_id = (select app.service_org()))',
                       made || '_service_update', made);
    end loop;
    foreach made in array array['social_accounts', 'social_messages', 'social_analytics', 'social_sentiment'] loop
        execute format('create policy %I on public.%I for select to authenticated using (org_id = (select app.active_org_id()) and (select app.may(''social:read'')))',
                       made || '_select', made);
        execute format('create policy %I on public.%I for select to spine_agent using (org_id = (select app.agent_org_id()) and (select app.agent_may(''social:read'')))',
                       made || '_agent_select', made);
    end loop;
end
$$;

create policy social_messages_service_insert on public.social_messages for insert to spine_service
    with check (org_id = (select app.service_org())
                and exists (select from public.social_accounts a where a.org_id = social_messages.org_id and a.id = social_messages.account_id));
create policy social_accounts_definer_select on public.social_accounts for select to spine_definer using (true);
create policy social_accounts_definer_update on public.social_accounts for update to spine_definer using (true);
grant select (org_id, id), update (updated_at) on public.social_accounts to spine_definer;
create policy social_messages_definer_select on public.social_messages for select to spine_definer using (true);
create policy social_messages_definer_delete on public.social_messages for delete to spine_definer using (true);
grant select (org_id, account_id), delete on public.social_messages to spine_definer;

-- Its tokens are the system's alone, and so is taking it away: with its messages, that is no statement for a request.
grant select (id, org_id, platform, platform_id, username, token_expires_at, status, region, created_at, updated_at)
    on public.social_accounts to authenticated, spine_agent;
grant update (username, access_token, refresh_token, token_expires_at, status, region) on public.social_accounts to spine_service;

grant update (received_at) on public.social_message_keys to spine_service;
grant select on public.social_messages, public.social_analytics, public.social_sentiment to authenticated, spine_agent;
create policy social_messages_update on public.social_messages for update to authenticated
    using (org_id = (select app.active_org_id()) and (select app.may('social:answer')));
grant update (status) on public.social_messages to authenticated;
grant update (content, status, thread_id, deleted_at) on public.social_messages to spine_service;
grant update (value) on public.social_analytics to spine_service;
grant update (cursor, synced_at) on public.social_cursors to spine_service;
create policy social_sentiment_agent_insert on public.social_sentiment for insert to spine_agent
    with check (org_id = (select app.agent_org_id()) and (select app.agent_may('social:analyse')));
grant insert (id, org_id, message_id, sentiment_score, model_used) on public.social_sentiment to spine_agent;

do $$
declare
    touched text;
begin
    foreach touched in array array['social_accounts', 'social_messages'] loop
        execute format('create trigger %I before update on public.%I for each row execute function app.touch_updated_at()', touched || '_touch', touched);
    end loop;
end
$$;
call app.audit_table('social_accounts', 'id', 'platform,status,region');
call app.audit_table('social_sentiment', 'id', 'message_id,sentiment_score,model_used', '', '{insert}');
-- What a person did to a message; what arrives from a platform is told by its own row.
call app.audit_table('social_messages', 'id', 'account_id,status', 'people', '{update}');

alter table public.data_ownership no force row level security;
insert into public.data_ownership (table_name, column_name, owner) values
    ('social_accounts', null, 'system'), ('social_messages', null, 'system'), ('social_messages', 'status', 'human'),
    ('social_message_keys', null, 'system'), ('social_analytics', null, 'system'), ('social_sentiment', null, 'agent'),
    ('social_cursors', null, 'system');
alter table public.data_ownership force row level security;

-- The owner's one function with its rights: making a month takes them. It is built aside and then attached, which holds up nobody
-- who reads or writes other months.
create function app.ensure_social_month(p_at timestamptz) returns boolean
    language plpgsql volatile security definer set search_path = '' set timezone = 'UTC' set lock_timeout = '3s' as $$
declare
    v_from date := date_trunc('month', p_at)::date;
    v_to   date := (date_trunc('month', p_at) + interval '1 month')::date;
    v_name text := 'social_messages_' || to_char(p_at, 'YYYY_MM');
begin
    -- A time is somebody's text. Before the platforms there was nothing, and what is yet to come has not been said.
    if p_at is null or p_at < '2004-01-01' or p_at > now() + interval '1 day' then
        raise exception using errcode = 'PT422', message = 'received_at_out_of_range',
            detail = 'A message was received since 2004 and not after tomorrow.';
    end if;
    if to_regclass('app.' || v_name) is not null then
        return false;
    end if;
    perform pg_advisory_xact_lock(hashtextextended('spine month ' || v_name, 0));
    -- Asked of the table itself: to_regclass remembers that it found nothing, and waiting for this lock does not remind it.
    if exists (select from pg_catalog.pg_class c where c.relnamespace = 'app'::regnamespace and c.relname = v_name) then
        return false;
    end if;
    execute format('create table app.%I (like public.social_messages including all)', v_name);
    execute format('alter table app.%I enable row level security', v_name);
    execute format('alter table app.%I force row level security', v_name);
    execute format('alter table public.social_messages attach partition app.%I for values from (%L) to (%L)', v_name, v_from, v_to);
    return true;
end
$$;
comment on function app.ensure_social_month(timestamptz) is 'Makes the month that a message of this time belongs to, unless it is there. Whether it was made now.';
grant execute on function app.ensure_social_month(timestamptz) to spine_service;

reset role;
set local role spine_definer;
-- A policy's sub-select holds nothing: the account must not go while its message comes.
create function app.hold_accounts() returns trigger
    language plpgsql security definer set search_path = '' as $$
begin
    perform from public.social_accounts a
      where (a.org_id, a.id) in (select n.org_id, n.account_id from new_rows n) for key share;
    if (select count(*) from public.social_accounts a where (a.org_id, a.id) in (select n.org_id, n.account_id from new_rows n))
       <> (select count(*) from (select distinct n.org_id, n.account_id from new_rows n) m) then
        raise exception 'a message needs its account' using errcode = 'foreign_key_violation';
    end if;
    return null;
end
$$;
grant execute on function app.hold_accounts() to spine_owner;
create function app.delete_account_messages() returns trigger
    language plpgsql security definer set search_path = '' as $$
begin
    delete from public.social_messages m where m.org_id = old.org_id and m.account_id = old.id;
    return null;
end
$$;
grant execute on function app.delete_account_messages() to spine_owner;
reset role;
set local role spine_owner;
create trigger social_messages_hold_accounts after insert on public.social_messages referencing new table as new_rows
    for each statement execute function app.hold_accounts();
create trigger social_accounts_delete_messages after delete on public.social_accounts
    for each row execute function app.delete_account_messages();
reset role;
