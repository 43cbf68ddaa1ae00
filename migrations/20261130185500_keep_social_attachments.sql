-- Keep the files that messages come with: what is to be fetched, what was kept of it and where, and who may read it.
--
-- Locks:   data_ownership exclusively, for an insert; storage.objects for the moment that changing its policies takes.
-- Rollout: expand. Files of messages that exist already are fetched when the message is next seen to have changed.
-- Undo:    drop the table and functions of this file, and make the policies of storage.objects again as 20261121002000 and 20261129050300 have them.

set local role spine_owner;

create table public.social_attachments (
    id           uuid        primary key default app.uuidv7(),
    org_id       uuid        not null,
    account_id   uuid        not null,
    message_id   uuid        not null,
    kind         text        not null,
    source_key   text        not null,
    status       text        not null default 'waiting',
    code         text,
    attempts     integer     not null default 0,
    next_at      timestamptz not null default now(),
    path         text,
    content_type text,
    bytes        bigint,
    fetched_at   timestamptz,
    created_at   timestamptz not null default now(),
    updated_at   timestamptz not null default now(),

    constraint social_attachments_place_key unique (org_id, message_id, source_key),
    constraint social_attachments_org_id_account_id_fkey
        foreign key (org_id, account_id) references public.social_accounts (org_id, id) on delete cascade,
    constraint social_attachments_org_id_message_id_fkey
        foreign key (org_id, message_id) references public.social_message_keys (org_id, message_id) on delete cascade,
    constraint social_attachments_status_check check (status in ('waiting', 'kept', 'refused', 'gone', 'failed', 'deleting', 'deleted')),
    constraint social_attachments_code_check check (code ~ '^[a-z_]{1,60}$'),
    constraint social_attachments_size_check
        check (length(kind) between 1 and 40 and length(source_key) between 1 and 500 and length(content_type) <= 100 and bytes >= 0 and attempts >= 0),
    constraint social_attachments_path_check check (starts_with(path, org_id::text || '/messages/') and app.is_plain_path(path)),
    constraint social_attachments_kept_check
        check (status <> 'kept' or path is not null and content_type is not null and bytes is not null and fetched_at is not null)
);
comment on table public.social_attachments is
    'A file that a message came with, and what became of it. Its address is in social_messages alone, where it is replaced by later ones.';
comment on column public.social_attachments.kind is 'The platform''s word for it, as in social_messages.attachments.';
comment on column public.social_attachments.source_key is
    'What makes it the same file when it is delivered again: the platform''s id, or the SHA-256 of its address without what signs it.';
comment on column public.social_attachments.status is
    'waiting: to be fetched. kept: at path. refused: not to be kept, and code says why. gone: not at the platform any more. failed: given up. deleting, deleted: its message was deleted at the platform.';
comment on column public.social_attachments.code is 'Why it is not kept, or what went wrong last.';
comment on column public.social_attachments.attempts is 'How often it was begun to be fetched.';
comment on column public.social_attachments.next_at is 'When it is to be worked on, while it waits or is to be deleted.';
comment on column public.social_attachments.path is 'Where it is in the bucket social-uploads. Set before the file is put there, so that it can be deleted whatever happens.';
comment on column public.social_attachments.content_type is 'What it is by its content, whatever its server called it.';
create index social_attachments_org_id_account_id_idx on public.social_attachments (org_id, account_id);
create index social_attachments_open_idx on public.social_attachments (org_id, next_at) where status in ('waiting', 'deleting');

alter table public.social_attachments enable row level security;
alter table public.social_attachments force row level security;
create policy social_attachments_service_select on public.social_attachments for select to spine_service using (org_id = (select app.service_org()));
create policy social_attachments_service_update on public.social_attachments for update to spine_service using (org_id = (select app.service_org()));
create policy social_attachments_select on public.social_attachments for select to authenticated
    using (org_id = (select app.active_org_id()) and (select app.may('social:read')));
create policy social_attachments_agent_select on public.social_attachments for select to spine_agent
    using (org_id = (select app.agent_org_id()) and (select app.agent_may('social:read')));
create policy social_attachments_definer_select on public.social_attachments for select to spine_definer using (true);
create policy social_attachments_definer_insert on public.social_attachments for insert to spine_definer with check (true);
create policy social_attachments_definer_update on public.social_attachments for update to spine_definer using (true);
grant select on public.social_attachments to authenticated, spine_agent, spine_service, spine_definer;
grant update (status, code, attempts, next_at, path, content_type, bytes, fetched_at) on public.social_attachments to spine_service;
grant insert, update on public.social_attachments to spine_definer;
create trigger social_attachments_touch before update on public.social_attachments for each row execute function app.touch_updated_at();

alter table public.data_ownership no force row level security;
insert into public.data_ownership (table_name, column_name, owner) values ('social_attachments', null, 'system');
alter table public.data_ownership force row level security;

reset role;
set local role spine_definer;

-- Queues the work on files of the organisation, unless it is open. The job, if it is to be woken.
create function app.queue_social_attachments(p_org uuid) returns uuid
    language sql volatile security definer set search_path = '' as $$
    insert into public.jobs as j (org_id, job_type, unique_key) values (p_org, 'social_attachments', 'inbox')
    on conflict (org_id, job_type, unique_key) where unique_key is not null
    do update set status = 'queued', attempts = 0, run_after = now(), finished_at = null, last_error = null, result = null, progress = null,
                  wait_reason = null, cancel_requested_at = null
       -- One that waits for files that are to be tried again later is not waited for.
       where j.status in ('succeeded', 'failed', 'cancelled') or j.status = 'queued' and j.run_after > now()
    returning j.id
$$;
comment on function app.queue_social_attachments(uuid) is 'Queues the work on files of an organisation, unless it is open.';
revoke execute on function app.queue_social_attachments(uuid) from public;

-- Files that messages came with, [{"message_id", "kind", "key"}], and messages that were deleted at the platform. In the transaction that writes
-- the messages, which holds the inbox: the rows before the job, as the worker locks them. The job, if it is to be woken.
create function app.admit_social_attachments(p_account uuid, p_files jsonb, p_deleted uuid[]) returns uuid
    language plpgsql volatile security definer set search_path = '' set enable_seqscan = off as $$
declare
    v_org  uuid := app.service_org();
    v_open integer;
    v_more integer;
begin
    if current_setting('role') <> 'spine_service' or v_org is null then
        raise exception 'the system admits files, in one organisation' using errcode = 'insufficient_privilege';
    end if;
    insert into public.social_attachments as a (org_id, account_id, message_id, kind, source_key)
    select v_org, p_account, x.message_id, x.kind, x.key
      from jsonb_to_recordset(p_files) x (message_id uuid, kind text, key text)
      -- Shown at another address, it is no other file.
     where not exists (select from public.social_attachments k
                        where k.org_id = v_org and k.message_id = x.message_id and k.kind = x.kind and k.status = 'kept'
                          and not exists (select from jsonb_to_recordset(p_files) y (message_id uuid, key text)
                                           where y.message_id = k.message_id and y.key = k.source_key))
     order by x.message_id, x.key
    on conflict (org_id, message_id, source_key) do update
       set status = 'waiting', code = null, next_at = now(), attempts = case when a.status = 'gone' then a.attempts else 0 end
     -- Shown again after it was missing; or at an address that may lead to it.
     where a.status in ('deleting', 'deleted') or a.status = 'gone' and a.attempts < 8;
    get diagnostics v_open = row_count;
    update public.social_attachments a
       set status = case when a.path is null then 'deleted' else 'deleting' end, code = null, next_at = now()
     where a.org_id = v_org and a.message_id = any (p_deleted) and a.status not in ('deleting', 'deleted');
    get diagnostics v_more = row_count;
    return case when v_open + v_more > 0 then app.queue_social_attachments(v_org) end;
end
$$;
comment on function app.admit_social_attachments(uuid, jsonb, uuid[]) is
    'Has files of messages fetched, and those of deleted messages deleted. The job, if it is to be woken.';

-- Queues the work on files that are due for a minute and that no open job is about, as when its last attempt failed. How many organisations. The
-- sweep wakes it.
create function app.requeue_social_attachments(p_most integer) returns integer
    language plpgsql volatile security definer set search_path = '' set enable_seqscan = off as $$
declare
    v_org    uuid;
    v_queued integer := 0;
begin
    if current_setting('role') <> 'spine_service' then
        raise exception 'the system queues files' using errcode = 'insufficient_privilege';
    end if;
    for v_org in
        select distinct a.org_id from public.social_attachments a
         where a.status in ('waiting', 'deleting') and a.next_at < now() - interval '1 minute'
           and not exists (select from public.jobs j where j.org_id = a.org_id and j.job_type = 'social_attachments' and j.unique_key = 'inbox'
                                                       and j.status in ('queued', 'running'))
         order by 1 limit least(p_most, 1000)
    loop
        v_queued := v_queued + (app.queue_social_attachments(v_org) is not null)::integer;
    end loop;
    return v_queued;
end
$$;
comment on function app.requeue_social_attachments(integer) is 'Queues the work on files that are due and that no open job is about.';

grant execute on function app.admit_social_attachments(uuid, jsonb, uuid[]), app.requeue_social_attachments(integer) to spine_service;

reset role;

-- Files of messages are customers' words: who may read those may read them, and only the system stores them.
alter policy spine_media_select on storage.objects
    using (bucket_id in ('project-media', 'blog-media', 'renders', 'social-uploads')
           and (storage.foldername(name))[1] = (select app.active_org_id())::text
           and case when bucket_id = 'social-uploads' and (storage.foldername(name))[2] = 'messages' then (select app.may('social:read'))
                    else (select app.may('media:read')) end);
alter policy spine_media_insert on storage.objects
    with check (bucket_id in ('project-media', 'blog-media', 'social-uploads')
                and (storage.foldername(name))[1] = (select app.active_org_id())::text and (select app.may('media:create'))
                and owner_id = (select app.uid())::text and app.is_plain_path(name)
                and (bucket_id <> 'social-uploads' or (storage.foldername(name))[2] is distinct from 'messages'));
alter policy spine_media_update on storage.objects
    using (bucket_id in ('project-media', 'blog-media', 'social-uploads')
           and (storage.foldername(name))[1] = (select app.active_org_id())::text
           and (bucket_id <> 'social-uploads' or (storage.foldername(name))[2] is distinct from 'messages')
           and case when (select app.may('media:manage')) then true
                    else (select app.may('media:create')) and owner_id = (select app.uid())::text end)
    with check (bucket_id in ('project-media', 'blog-media', 'social-uploads')
                and (storage.foldername(name))[1] = (select app.active_org_id())::text and app.is_plain_path(name)
                and (bucket_id <> 'social-uploads' or (storage.foldername(name))[2] is distinct from 'messages')
                and case when (select app.may('media:manage')) then true
                         else (select app.may('media:create')) and owner_id = (select app.uid())::text end);
alter policy spine_media_delete on storage.objects
    using (bucket_id in ('project-media', 'blog-media', 'renders', 'social-uploads')
           and (storage.foldername(name))[1] = (select app.active_org_id())::text
           and (bucket_id <> 'social-uploads' or (storage.foldername(name))[2] is distinct from 'messages')
           and case when (select app.may('media:manage')) then true
                    else bucket_id <> 'renders' and (select app.may('media:create')) and owner_id = (select app.uid())::text end);
