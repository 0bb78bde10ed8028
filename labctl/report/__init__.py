"""From records to what is handed in: tables, charts, worksheet."""
