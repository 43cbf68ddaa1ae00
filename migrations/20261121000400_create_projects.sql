-- Create projects with their pictures and tags, and assets.
--
-- Locks:   none on existing tables.
-- Rollout: expand.
-- Undo:    drop the four tables.

set local role spine_owner;

create table public.projects (
    id           uuid        primary key default app.uuidv7(),
    org_id       uuid        not null references public.organizations (id) on delete cascade,
    title        text        not null,
    description  text,
    category     text,
    client_id    uuid,
    status       text        not null default 'draft',
    published_at timestamptz,
    approved_by  uuid        references public.profiles (id) on delete set null,
    archived_at  timestamptz,
    created_at   timestamptz not null default now(),
    updated_at   timestamptz not null default now(),

    constraint projects_org_id_id_key unique (org_id, id),
    constraint projects_title_check check (length(title) between 1 and 200),
    constraint projects_status_check check (status in ('draft', 'active', 'shared', 'done')),
    constraint projects_org_id_client_id_fkey foreign key (org_id, client_id) references public.clients (org_id, id)
);
comment on table public.projects is 'A design project. Public in the portfolio only when published and approved.';
create index projects_org_id_created_at_idx on public.projects (org_id, created_at desc);
create index projects_org_id_client_id_idx on public.projects (org_id, client_id);
create index projects_approved_by_idx on public.projects (approved_by);
create index projects_public_idx on public.projects (published_at desc)
    where published_at is not null and approved_by is not null and archived_at is null;

create table public.project_images (
    id          uuid        primary key default app.uuidv7(),
    org_id      uuid        not null,
    project_id  uuid        not null,
    file_path   text        not null,
    order_index integer     not null default 0,
    created_at  timestamptz not null default now(),
    constraint project_images_org_id_project_id_fkey
        foreign key (org_id, project_id) references public.projects (org_id, id) on delete cascade,
    constraint project_images_file_path_check check (starts_with(file_path, org_id::text || '/') and length(file_path) <= 500)
);
comment on table public.project_images is 'Pictures of a project, in order.';
create index project_images_org_id_project_id_idx on public.project_images (org_id, project_id, order_index);

create table public.project_tags (
    id         uuid primary key default app.uuidv7(),
    org_id     uuid not null,
    project_id uuid not null,
    tag        text not null,
    constraint project_tags_org_id_project_id_fkey
        foreign key (org_id, project_id) references public.projects (org_id, id) on delete cascade,
    constraint project_tags_project_id_tag_key unique (project_id, tag),
    constraint project_tags_tag_check check (length(tag) between 1 and 60)
);
comment on table public.project_tags is 'Tags of a project.';
create index project_tags_org_id_project_id_idx on public.project_tags (org_id, project_id);

create table public.assets (
    id               uuid        primary key default app.uuidv7(),
    org_id           uuid        not null references public.organizations (id) on delete cascade,
    kind             text        not null,
    bucket           text        not null,
    path             text        not null,
    mime             text        not null,
    bytes            bigint      not null,
    sha256           bytea       not null,
    created_by_user  uuid        references public.profiles (id) on delete set null,
    created_by_agent uuid,
    source_table     text,
    source_id        uuid,
    created_at       timestamptz not null default now(),

    constraint assets_bucket_path_key unique (bucket, path),
    constraint assets_path_check check (starts_with(path, org_id::text || '/')),
    constraint assets_bytes_check check (bytes > 0),
    constraint assets_sha256_check check (length(sha256) = 32),
    constraint assets_org_id_created_by_agent_fkey
        foreign key (org_id, created_by_agent) references public.agents (org_id, id) on delete set null (created_by_agent)
);
comment on table public.assets is 'A stored file, where it is and what made it.';
create index assets_org_id_created_at_idx on public.assets (org_id, created_at desc);
create index assets_created_by_user_idx on public.assets (created_by_user);
create index assets_org_id_created_by_agent_idx on public.assets (org_id, created_by_agent);

alter table public.projects enable row level security;
alter table public.projects force row level security;
alter table public.project_images enable row level security;
alter table public.project_images force row level security;
alter table public.project_tags enable row level security;
alter table public.project_tags force row level security;
alter table public.assets enable row level security;
alter table public.assets force row level security;

create policy projects_anon_select on public.projects for select to anon
    using (published_at is not null and approved_by is not null and archived_at is null);
create policy projects_select on public.projects for select to authenticated
    using (org_id = (select app.active_org_id())
           and case when (select app.may('projects:read')) then true
                    else status = 'shared' and client_id = any ((select app.my_client_ids())::uuid[]) end);
create policy projects_insert on public.projects for insert to authenticated
    with check (org_id = (select app.active_org_id()) and (select app.may('projects:create')));
create policy projects_update on public.projects for update to authenticated
    using (org_id = (select app.active_org_id()) and (select app.may('projects:update')))
    with check (org_id = (select app.active_org_id()) and (approved_by is null or (select app.may('projects:approve'))));
create policy projects_delete on public.projects for delete to authenticated
    using (org_id = (select app.active_org_id()) and (select app.may('projects:delete')));
create policy projects_agent_select on public.projects for select to spine_agent
    using (org_id = (select app.agent_org_id()) and (select app.agent_may('projects:read')));
create policy projects_service_select on public.projects for select to spine_service using (org_id = (select app.service_org()));
-- The public sees what was made, not for whom or by whose leave.
grant select (id, org_id, title, description, category, published_at) on public.projects to anon;
grant select on public.projects to spine_agent, spine_service;
grant select, delete on public.projects to authenticated;
grant insert (id, org_id, title, description, category, client_id, status) on public.projects to authenticated;
grant update (title, description, category, client_id, status, published_at, approved_by, archived_at) on public.projects to authenticated;

-- Whoever sees the project sees its pictures and tags: the sub-select runs under the policies of projects.
create policy project_images_anon_select on public.project_images for select to anon
    using (exists (select from public.projects p where p.org_id = project_images.org_id and p.id = project_images.project_id));
create policy project_images_select on public.project_images for select to authenticated
    using (org_id = (select app.active_org_id())
           and exists (select from public.projects p where p.org_id = project_images.org_id and p.id = project_images.project_id));
create policy project_images_insert on public.project_images for insert to authenticated
    with check (org_id = (select app.active_org_id()) and (select app.may('projects:update')));
create policy project_images_update on public.project_images for update to authenticated
    using (org_id = (select app.active_org_id()) and (select app.may('projects:update')))
    with check (org_id = (select app.active_org_id()));
create policy project_images_delete on public.project_images for delete to authenticated
    using (org_id = (select app.active_org_id()) and (select app.may('projects:update')));
grant select on public.project_images to anon;
grant select, insert, delete on public.project_images to authenticated;
grant update (order_index) on public.project_images to authenticated;

create policy project_tags_anon_select on public.project_tags for select to anon
    using (exists (select from public.projects p where p.org_id = project_tags.org_id and p.id = project_tags.project_id));
create policy project_tags_select on public.project_tags for select to authenticated
    using (org_id = (select app.active_org_id())
           and exists (select from public.projects p where p.org_id = project_tags.org_id and p.id = project_tags.project_id));
create policy project_tags_insert on public.project_tags for insert to authenticated
    with check (org_id = (select app.active_org_id()) and (select app.may('projects:update')));
create policy project_tags_delete on public.project_tags for delete to authenticated
    using (org_id = (select app.active_org_id()) and (select app.may('projects:update')));
grant select on public.project_tags to anon;
grant select, insert, delete on public.project_tags to authenticated;

-- Assets are written by the system as it stores them.
create policy assets_select on public.assets for select to authenticated
    using (org_id = (select app.active_org_id())
           and case when (select app.may('assets:read')) then true else created_by_user = (select app.uid()) end);
create policy assets_service_select on public.assets for select to spine_service using (org_id = (select app.service_org()));
create policy assets_service_insert on public.assets for insert to spine_service with check (org_id = (select app.service_org()));
grant select on public.assets to authenticated;
grant select, insert on public.assets to spine_service;

reset role;
set local role spine_definer;
-- Whoever approves is who approved.
create function app.stamp_approval() returns trigger language plpgsql security definer set search_path = '' as $$
begin
    if new.approved_by is distinct from old.approved_by and new.approved_by is not null then
        new.approved_by := coalesce(app.uid(), new.approved_by);
    end if;
    return new;
end
$$;
grant execute on function app.stamp_approval() to public;
reset role;
set local role spine_owner;

create trigger projects_stamp_approval before update on public.projects for each row execute function app.stamp_approval();
create trigger projects_touch before update on public.projects for each row execute function app.touch_updated_at();

reset role;
