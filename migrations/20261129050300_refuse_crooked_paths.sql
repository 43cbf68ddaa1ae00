-- Refuse stored paths that do not say plainly where they lead: `A/../B/x` begins with one organisation's folder and may end in
-- another's, wherever somebody tidies up a path.
--
-- Locks:   project_images, blog_media, assets, render_requests and render_results exclusively, while their rows are checked; no
--          database holds rows of them yet. storage.objects for the moment that changing a policy takes.
-- Rollout: expand. As whoever migrates for the policies of storage.objects: spine_owner may not change them.
-- Undo:    the checks and policies as they were, then drop app.is_plain_path.

-- Each is replaced in the same statement by one that asks for more.
-- squawk-ignore-file ban-drop-constraint

set local role spine_owner;

create function app.is_plain_path(p_path text) returns boolean
    language sql immutable set search_path = '' as $$
    -- No empty or dotted segment, nothing that is decoded or turned into a slash later, no control character.
    select p_path !~ '(^|/)\.{0,2}(/|$)' and p_path !~ '[\\%\u0001-\u001f\u007f-\u009f]' and length(p_path) <= 500
$$;
comment on function app.is_plain_path(text) is 'Whether a path in storage leads nowhere but where it says.';
-- A check runs with the rights of whoever writes, the definer and an operator included.
grant execute on function app.is_plain_path(text) to public;

alter table public.project_images drop constraint project_images_file_path_check,
    add constraint project_images_file_path_check check (starts_with(file_path, org_id::text || '/') and app.is_plain_path(file_path));
alter table public.blog_media drop constraint blog_media_file_path_check,
    add constraint blog_media_file_path_check check (starts_with(file_path, org_id::text || '/') and app.is_plain_path(file_path));
alter table public.assets drop constraint assets_path_check,
    add constraint assets_path_check check (starts_with(path, org_id::text || '/') and app.is_plain_path(path));
-- With the bucket in front.
alter table public.render_requests drop constraint render_requests_input_file_path_check,
    add constraint render_requests_input_file_path_check
        check (split_part(input_file_path, '/', 2) = org_id::text and split_part(input_file_path, '/', 3) <> ''
               and app.is_plain_path(input_file_path));
alter table public.render_results add constraint render_results_output_file_path_check
    check (split_part(output_file_path, '/', 2) = org_id::text and split_part(output_file_path, '/', 3) <> ''
           and app.is_plain_path(output_file_path));

reset role;

alter policy spine_media_insert on storage.objects
    with check (bucket_id in ('project-media', 'blog-media', 'social-uploads')
                and (storage.foldername(name))[1] = (select app.active_org_id())::text and (select app.may('media:create'))
                and owner_id = (select app.uid())::text and app.is_plain_path(name));
alter policy spine_media_update on storage.objects
    with check (bucket_id in ('project-media', 'blog-media', 'social-uploads')
                and (storage.foldername(name))[1] = (select app.active_org_id())::text and app.is_plain_path(name)
                and case when (select app.may('media:manage')) then true
                         else (select app.may('media:create')) and owner_id = (select app.uid())::text end);
