-- Links to remove from Zoho CRM: the contact and the deal, each by your own ID.
-- Replace the table by yours. The window is half open: a link marked at its very end belongs to the next one.
SELECT contact_id AS external_id,
       deal_id    AS related_external_id
FROM contacts_deals_to_remove
WHERE marked_at >= :window_start
  AND marked_at < :window_end
