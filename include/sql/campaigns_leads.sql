-- Links to remove from the CRM: the campaign and the lead, each by our own ID.
-- The window is half open: a link marked at its very end belongs to the next one.
SELECT parent_id  AS external_id,
       related_id AS related_external_id
FROM crm_links_to_remove
WHERE relation = 'campaigns_leads'
  AND marked_at >= :window_start
  AND marked_at < :window_end
