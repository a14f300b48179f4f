broker_url = "redis://[::1]:6379/0"
result_backend = "redis://[::1]:6379/1"
task_default_queue = "greetings"
worker_pool = "threads"
task_ignore_result = False
broker_connection_retry_on_startup = True
