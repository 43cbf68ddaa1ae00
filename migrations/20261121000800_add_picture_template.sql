-- Add the default template that stands in for a model's brief when its quota is spent.
--
-- Locks:   prompt_templates exclusively, for one insert; nobody writes it but operators and admins.
-- Rollout: expand.
-- Undo:    delete the row of purpose `render_picture`.

set local role spine_owner;

-- Under forced row-level security not even the owner writes a table: lifted for this one statement.
alter table public.prompt_templates no force row level security;
insert into public.prompt_templates (org_id, purpose, locale, body) values
    (null, 'render_picture', 'en',
     'Redecorate the room in this photo. Keep its geometry, windows, doors and camera position. Photorealistic, natural light. '
     'Follow these wishes and change nothing else.');
alter table public.prompt_templates force row level security;

reset role;
