-- Measure how much of a photo's geometry a render has kept: render_results.edges_kept.
--
-- Locks:   render_results exclusively, for the moment that adding a column takes.
-- Rollout: expand; running code neither writes nor reads the column.
-- Undo:    drop the column.

set local role spine_owner;

alter table public.render_results add column edges_kept real,
    add constraint render_results_edges_kept_check check (edges_kept between 0 and 1) not valid;
comment on column public.render_results.edges_kept is
    'The share of the photo''s long straight edges that the render has too, from 0 to 1. Null for a photo with hardly any, and for renders before it was measured.';
-- No row has a value yet, so there is nothing to wait for.
alter table public.render_results validate constraint render_results_edges_kept_check;

reset role;
