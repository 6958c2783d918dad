"""Pure rules: links, requests, verdicts, jobs and windows. Nothing here does input or output."""
