-- Create proposals, contracts, templates, services and the blog.
--
-- Locks:   data_ownership exclusively, for one insert.
-- Rollout: expand.
-- Undo:    drop the eight tables.

set local role spine_owner;

create table public.proposals (
    id           uuid        primary key default app.uuidv7(),
    org_id       uuid        not null references public.organizations (id) on delete cascade,
    client_id    uuid,
    title        text        not null,
    status       text        not null default 'draft',
    brain_status text        not null default 'pending',
    deal_outcome text        not null default 'open',
    created_at   timestamptz not null default now(),
    updated_at   timestamptz not null default now(),

    constraint proposals_org_id_id_key unique (org_id, id),
    constraint proposals_title_check check (length(title) between 1 and 200),
    constraint proposals_status_check check (status in ('draft', 'sent', 'accepted', 'declined', 'withdrawn')),
    constraint proposals_brain_status_check check (brain_status in ('pending', 'learning', 'learned', 'skipped')),
    constraint proposals_deal_outcome_check check (deal_outcome in ('open', 'won', 'lost')),
    constraint proposals_org_id_client_id_fkey
        foreign key (org_id, client_id) references public.clients (org_id, id) on delete set null (client_id)
);
comment on table public.proposals is 'An offer to a client.';
comment on column public.proposals.brain_status is 'Whether an agent has learned from it. Agents write this.';
create index proposals_org_id_created_at_idx on public.proposals (org_id, created_at desc);
create index proposals_org_id_client_id_idx on public.proposals (org_id, client_id);

create table public.contracts (
    id          uuid        primary key default app.uuidv7(),
    org_id      uuid        not null references public.organizations (id) on delete cascade,
    client_id   uuid,
    client_name text        not null,
    title       text        not null,
    scope       text        not null default '',
    terms       text        not null default '',
    status      text        not null default 'draft',
    created_at  timestamptz not null default now(),
    updated_at  timestamptz not null default now(),

    constraint contracts_client_name_check check (length(client_name) between 1 and 200),
    constraint contracts_title_check check (length(title) between 1 and 200),
    constraint contracts_text_check check (greatest(length(scope), length(terms)) <= 100000),
    constraint contracts_status_check check (status in ('draft', 'sent', 'signed', 'ended')),
    constraint contracts_org_id_client_id_fkey
        foreign key (org_id, client_id) references public.clients (org_id, id) on delete set null (client_id)
);
comment on table public.contracts is 'A contract. The client may be one of the organisation''s, or just a name.';
create index contracts_org_id_created_at_idx on public.contracts (org_id, created_at desc);
create index contracts_org_id_client_id_idx on public.contracts (org_id, client_id);

create table public.templates (
    id         uuid        primary key default app.uuidv7(),
    org_id     uuid        not null references public.organizations (id) on delete cascade,
    name       text        not null,
    type       text        not null,
    content    jsonb       not null default '{}',
    is_system  boolean     not null default false,
    created_by uuid        default app.uid() references public.profiles (id) on delete set null,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),

    constraint templates_org_id_id_key unique (org_id, id),
    constraint templates_name_check check (length(name) between 1 and 200),
    constraint templates_type_check check (type in ('document', 'form')),
    constraint templates_content_check check (pg_column_size(content) <= 1048576)
);
comment on table public.templates is 'A document or form to fill in. System ones come with Spine and are nobody''s to change.';
create index templates_org_id_created_at_idx on public.templates (org_id, created_at desc);
create index templates_created_by_idx on public.templates (created_by);

create table public.services (
    id          uuid        primary key default app.uuidv7(),
    org_id      uuid        not null references public.organizations (id) on delete cascade,
    name        text        not null,
    description text        not null default '',
    created_at  timestamptz not null default now(),
    updated_at  timestamptz not null default now(),
    constraint services_org_id_name_key unique (org_id, name),
    constraint services_name_check check (length(name) between 1 and 200),
    constraint services_description_check check (length(description) <= 20000)
);
comment on table public.services is 'What the organisation offers.';

create table public.blog_categories (
    id         uuid        primary key default app.uuidv7(),
    org_id     uuid        not null references public.organizations (id) on delete cascade,
    name       text        not null,
    created_at timestamptz not null default now(),
    constraint blog_categories_org_id_id_key unique (org_id, id),
    constraint blog_categories_org_id_name_key unique (org_id, name),
    constraint blog_categories_name_check check (length(name) between 1 and 100)
);
comment on table public.blog_categories is 'What posts are about.';

create table public.blog_posts (
    id           uuid        primary key default app.uuidv7(),
    org_id       uuid        not null references public.organizations (id) on delete cascade,
    category_id  uuid,
    title        text        not null,
    slug         text        not null,
    content      text        not null default '',
    author_id    uuid        default app.uid() references public.profiles (id) on delete set null,
    status       text        not null default 'draft',
    published_at timestamptz,
    created_at   timestamptz not null default now(),
    updated_at   timestamptz not null default now(),

    constraint blog_posts_org_id_id_key unique (org_id, id),
    constraint blog_posts_org_id_slug_key unique (org_id, slug),
    constraint blog_posts_title_check check (length(title) between 1 and 200),
    constraint blog_posts_slug_check check (slug ~ '^[a-z0-9](-?[a-z0-9]){0,99}$'),
    constraint blog_posts_content_check check (length(content) <= 500000),
    constraint blog_posts_status_check check (status in ('draft', 'published', 'archived')),
    constraint blog_posts_published_check check (status <> 'published' or published_at is not null),
    constraint blog_posts_org_id_category_id_fkey
        foreign key (org_id, category_id) references public.blog_categories (org_id, id) on delete set null (category_id)
);
comment on table public.blog_posts is 'A post. Public once its status is published and its time has come.';
create index blog_posts_org_id_created_at_idx on public.blog_posts (org_id, created_at desc);
create index blog_posts_org_id_category_id_idx on public.blog_posts (org_id, category_id);
create index blog_posts_author_id_idx on public.blog_posts (author_id);
create index blog_posts_public_idx on public.blog_posts (org_id, published_at desc) where status = 'published';

create table public.blog_tags (
    id      uuid primary key default app.uuidv7(),
    org_id  uuid not null,
    post_id uuid not null,
    tag     text not null,
    constraint blog_tags_post_id_tag_key unique (post_id, tag),
    constraint blog_tags_tag_check check (length(tag) between 1 and 60),
    constraint blog_tags_org_id_post_id_fkey foreign key (org_id, post_id) references public.blog_posts (org_id, id) on delete cascade
);
comment on table public.blog_tags is 'Tags of a post.';
create index blog_tags_org_id_post_id_idx on public.blog_tags (org_id, post_id);

create table public.blog_media (
    id         uuid        primary key default app.uuidv7(),
    org_id     uuid        not null,
    post_id    uuid        not null,
    file_path  text        not null,
    created_at timestamptz not null default now(),
    constraint blog_media_post_id_file_path_key unique (post_id, file_path),
    constraint blog_media_file_path_check check (starts_with(file_path, org_id::text || '/') and length(file_path) <= 500),
    constraint blog_media_org_id_post_id_fkey foreign key (org_id, post_id) references public.blog_posts (org_id, id) on delete cascade
);
comment on table public.blog_media is 'Files of a post, in the bucket blog-media.';
create index blog_media_org_id_post_id_idx on public.blog_media (org_id, post_id);
create index blog_media_file_path_idx on public.blog_media (file_path);

create table public.client_templates (
    org_id      uuid        not null,
    client_id   uuid        not null,
    template_id uuid        not null,
    created_at  timestamptz not null default now(),
    primary key (client_id, template_id),
    constraint client_templates_org_id_client_id_fkey
        foreign key (org_id, client_id) references public.clients (org_id, id) on delete cascade,
    constraint client_templates_org_id_template_id_fkey
        foreign key (org_id, template_id) references public.templates (org_id, id) on delete cascade
);
comment on table public.client_templates is 'Which templates a client is to fill in. Assigned, not copied.';
create index client_templates_org_id_client_id_idx on public.client_templates (org_id, client_id);
create index client_templates_org_id_template_id_idx on public.client_templates (org_id, template_id);

do $$
declare
    made text;
begin
    foreach made in array array['proposals', 'contracts', 'templates', 'services', 'blog_categories', 'blog_posts', 'blog_tags', 'blog_media',
                                'client_templates'] loop
        execute format('alter table public.%I enable row level security', made);
        execute format('alter table public.%I force row level security', made);
        execute format('create policy %I on public.%I for select to spine_service using (org_id = (select app.service_org()))',
                       made || '_service_select', made);
        execute format('grant select on public.%I to spine_service', made);
    end loop;
    -- The library of whoever may do with content: the same four rules for each.
    foreach made in array array['proposals', 'contracts', 'services'] loop
        execute format('create policy %I on public.%I for select to authenticated using (org_id = (select app.active_org_id()) and (select app.may(''content:read'')))',
                       made || '_select', made);
        execute format('create policy %I on public.%I for insert to authenticated with check (org_id = (select app.active_org_id()) and (select app.may(''content:create'')))',
                       made || '_insert', made);
        execute format('create policy %I on public.%I for update to authenticated using (org_id = (select app.active_org_id()) and (select app.may(''content:update'')))',
                       made || '_update', made);
        execute format('create policy %I on public.%I for delete to authenticated using (org_id = (select app.active_org_id()) and (select app.may(''content:delete'')))',
                       made || '_delete', made);
    end loop;
end
$$;

create policy proposals_agent_select on public.proposals for select to spine_agent
    using (org_id = (select app.agent_org_id()) and (select app.agent_may('content:read')));
create policy proposals_agent_update on public.proposals for update to spine_agent
    using (org_id = (select app.agent_org_id()) and (select app.agent_may('intelligence:update')));
grant select, delete on public.proposals to authenticated;
grant insert (id, org_id, client_id, title, status, deal_outcome) on public.proposals to authenticated;
grant update (client_id, title, status, deal_outcome) on public.proposals to authenticated;
grant select on public.proposals to spine_agent;
grant update (brain_status) on public.proposals to spine_agent;

grant select, delete on public.contracts to authenticated;
grant insert (id, org_id, client_id, client_name, title, scope, terms, status) on public.contracts to authenticated;
grant update (client_id, client_name, title, scope, terms, status) on public.contracts to authenticated;

grant select, delete on public.services to authenticated;
grant insert (id, org_id, name, description) on public.services to authenticated;
grant update (name, description) on public.services to authenticated;

-- The library is its makers'; a client sees what was assigned to it: the sub-select runs under the policies of client_templates.
create policy templates_select on public.templates for select to authenticated
    using (org_id = (select app.active_org_id())
           and case when (select app.may('templates:read')) then true
                    else exists (select from public.client_templates t
                                  where t.org_id = templates.org_id and t.template_id = templates.id) end);
create policy templates_insert on public.templates for insert to authenticated
    with check (org_id = (select app.active_org_id()) and (select app.may('templates:create')));
create policy templates_update on public.templates for update to authenticated
    using (org_id = (select app.active_org_id()) and not is_system and (select app.may('templates:update'))
           and case when (select app.may('templates:update_all')) then true else created_by = (select app.uid()) end);
create policy templates_delete on public.templates for delete to authenticated
    using (org_id = (select app.active_org_id()) and not is_system and (select app.may('templates:delete')));
grant select, delete on public.templates to authenticated;
grant insert (id, org_id, name, type, content) on public.templates to authenticated;
grant update (name, content) on public.templates to authenticated;

create policy client_templates_select on public.client_templates for select to authenticated
    using (org_id = (select app.active_org_id())
           and case when (select app.may('clients:read')) then true else client_id = any ((select app.my_client_ids())::uuid[]) end);
create policy client_templates_insert on public.client_templates for insert to authenticated
    with check (org_id = (select app.active_org_id()) and (select app.may('templates:update'))
                and case when (select app.may('clients:read')) then true else client_id = any ((select app.my_consulted_client_ids())::uuid[]) end);
create policy client_templates_delete on public.client_templates for delete to authenticated
    using (org_id = (select app.active_org_id()) and (select app.may('templates:update'))
           and case when (select app.may('clients:read')) then true else client_id = any ((select app.my_consulted_client_ids())::uuid[]) end);
grant select, delete on public.client_templates to authenticated;
grant insert (org_id, client_id, template_id) on public.client_templates to authenticated;

create policy blog_posts_anon_select on public.blog_posts for select to anon
    using (status = 'published' and published_at <= now());
create policy blog_posts_select on public.blog_posts for select to authenticated
    using (org_id = (select app.active_org_id()) and (select app.may('blog:read')));
create policy blog_posts_insert on public.blog_posts for insert to authenticated
    with check (org_id = (select app.active_org_id()) and (select app.may('blog:create')));
create policy blog_posts_update on public.blog_posts for update to authenticated
    using (org_id = (select app.active_org_id()) and (select app.may('blog:edit')));
create policy blog_posts_delete on public.blog_posts for delete to authenticated
    using (org_id = (select app.active_org_id()) and (select app.may('blog:delete')));
grant select (id, org_id, category_id, title, slug, content, published_at) on public.blog_posts to anon;
-- What the public's policy asks must be the public's to read.
grant select (status) on public.blog_posts to anon;
grant select, delete on public.blog_posts to authenticated;
grant insert (id, org_id, category_id, title, slug, content, status, published_at) on public.blog_posts to authenticated;
grant update (category_id, title, slug, content, status, published_at) on public.blog_posts to authenticated;

-- A category is public with its first public post.
create policy blog_categories_anon_select on public.blog_categories for select to anon
    using (exists (select from public.blog_posts p where p.org_id = blog_categories.org_id and p.category_id = blog_categories.id));
create policy blog_categories_select on public.blog_categories for select to authenticated
    using (org_id = (select app.active_org_id()) and (select app.may('blog:read')));
create policy blog_categories_insert on public.blog_categories for insert to authenticated
    with check (org_id = (select app.active_org_id()) and (select app.may('blog:edit')));
create policy blog_categories_update on public.blog_categories for update to authenticated
    using (org_id = (select app.active_org_id()) and (select app.may('blog:edit')));
create policy blog_categories_delete on public.blog_categories for delete to authenticated
    using (org_id = (select app.active_org_id()) and (select app.may('blog:edit')));
grant select (id, org_id, name) on public.blog_categories to anon;
grant select, delete on public.blog_categories to authenticated;
grant insert (id, org_id, name) on public.blog_categories to authenticated;
grant update (name) on public.blog_categories to authenticated;

-- Whoever sees the post sees its tags and files: the sub-select runs under the policies of posts.
create policy blog_tags_anon_select on public.blog_tags for select to anon
    using (exists (select from public.blog_posts p where p.org_id = blog_tags.org_id and p.id = blog_tags.post_id));
create policy blog_tags_select on public.blog_tags for select to authenticated
    using (org_id = (select app.active_org_id()) and (select app.may('blog:read')));
create policy blog_tags_insert on public.blog_tags for insert to authenticated
    with check (org_id = (select app.active_org_id()) and (select app.may('blog:edit')));
create policy blog_tags_delete on public.blog_tags for delete to authenticated
    using (org_id = (select app.active_org_id()) and (select app.may('blog:edit')));
grant select on public.blog_tags to anon;
grant select, insert, delete on public.blog_tags to authenticated;

create policy blog_media_anon_select on public.blog_media for select to anon
    using (exists (select from public.blog_posts p where p.org_id = blog_media.org_id and p.id = blog_media.post_id));
create policy blog_media_select on public.blog_media for select to authenticated
    using (org_id = (select app.active_org_id()) and (select app.may('blog:read')));
create policy blog_media_insert on public.blog_media for insert to authenticated
    with check (org_id = (select app.active_org_id()) and (select app.may('blog:edit')));
create policy blog_media_delete on public.blog_media for delete to authenticated
    using (org_id = (select app.active_org_id()) and (select app.may('blog:edit')));
grant select on public.blog_media to anon;
grant select, delete on public.blog_media to authenticated;
grant insert (id, org_id, post_id, file_path) on public.blog_media to authenticated;

call app.audit_table('proposals', 'id', 'client_id,status,brain_status,deal_outcome');
call app.audit_table('contracts', 'id', 'client_id,status');
call app.audit_table('templates', 'id', 'type,is_system,created_by');
call app.audit_table('services', 'id');
call app.audit_table('blog_categories', 'id');
call app.audit_table('blog_posts', 'id', 'category_id,author_id,status,published_at');
call app.audit_table('blog_tags', 'id', 'post_id');
call app.audit_table('blog_media', 'id', 'post_id');
call app.audit_table('client_templates', 'client_id,template_id');

do $$
declare
    touched text;
begin
    foreach touched in array array['proposals', 'contracts', 'templates', 'services', 'blog_posts'] loop
        execute format('create trigger %I before update on public.%I for each row execute function app.touch_updated_at()', touched || '_touch', touched);
    end loop;
end
$$;

alter table public.data_ownership no force row level security;
insert into public.data_ownership (table_name, column_name, owner) values
    ('proposals', null, 'human'), ('proposals', 'brain_status', 'agent'), ('contracts', null, 'human'), ('templates', null, 'human'),
    ('templates', 'is_system', 'system'), ('services', null, 'human'), ('blog_posts', null, 'human'), ('blog_categories', null, 'human'),
    ('blog_tags', null, 'human'), ('blog_media', null, 'human'), ('client_templates', null, 'human');
alter table public.data_ownership force row level security;

reset role;
