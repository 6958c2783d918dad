"""Example Dags: copy one to your Dags folder and adapt it."""
