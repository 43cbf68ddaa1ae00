-- Add the storage buckets and their policies by path.
--
-- Locks:   storage.objects for the moment that making a policy takes; project_images and outbox while an index is made, for as long
--          as reading them takes: one row a picture, and what a day delivers.
-- Rollout: expand. As whoever migrates: Supabase's postgres may make policies on its storage tables, and spine_owner may not.
-- Undo:    drop the policies; empty and delete the buckets through the storage API.

set local role spine_owner;
create index project_images_file_path_idx on public.project_images (file_path);
-- Deleting an organisation looks here for what was delivered, too.
create index outbox_org_id_idx on public.outbox (org_id);
reset role;

insert into storage.buckets (id, name, public, file_size_limit) values
    ('project-media', 'project-media', false, 52428800), ('blog-media', 'blog-media', false, 52428800),
    ('renders', 'renders', false, 52428800), ('social-uploads', 'social-uploads', false, 104857600)
on conflict (id) do update set public = false;

-- The first folder of a path is the organisation. The sub-selects run under the public's policies of pictures and posts.
create policy spine_media_anon_select on storage.objects for select to anon
    using (case bucket_id
               when 'project-media' then exists (select from public.project_images i where i.file_path = objects.name)
               when 'blog-media' then exists (select from public.blog_media m where m.file_path = objects.name)
               else false end);
create policy spine_media_select on storage.objects for select to authenticated
    using (bucket_id in ('project-media', 'blog-media', 'renders', 'social-uploads')
           and (storage.foldername(name))[1] = (select app.active_org_id())::text and (select app.may('media:read')));
-- What is rendered, the system stores. A folder called `..` leads elsewhere wherever somebody tidies up a path, so there is none.
create policy spine_media_insert on storage.objects for insert to authenticated
    with check (bucket_id in ('project-media', 'blog-media', 'social-uploads')
                and (storage.foldername(name))[1] = (select app.active_org_id())::text and (select app.may('media:create'))
                and owner_id = (select app.uid())::text and name !~ '(^|/)\.{0,2}(/|$)');
create policy spine_media_update on storage.objects for update to authenticated
    using (bucket_id in ('project-media', 'blog-media', 'social-uploads')
           and (storage.foldername(name))[1] = (select app.active_org_id())::text
           and case when (select app.may('media:manage')) then true
                    else (select app.may('media:create')) and owner_id = (select app.uid())::text end)
    with check (bucket_id in ('project-media', 'blog-media', 'social-uploads')
                and (storage.foldername(name))[1] = (select app.active_org_id())::text and name !~ '(^|/)\.{0,2}(/|$)'
                and case when (select app.may('media:manage')) then true
                         else (select app.may('media:create')) and owner_id = (select app.uid())::text end);
create policy spine_media_delete on storage.objects for delete to authenticated
    using (bucket_id in ('project-media', 'blog-media', 'renders', 'social-uploads')
           and (storage.foldername(name))[1] = (select app.active_org_id())::text
           and case when (select app.may('media:manage')) then true
                    else bucket_id <> 'renders' and (select app.may('media:create')) and owner_id = (select app.uid())::text end);
