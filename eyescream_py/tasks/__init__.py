"""What each trainer trains: one `training.Task` per Lua script."""
