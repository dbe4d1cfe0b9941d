"""Tools: functions that the policy may call. A special case of a world: it answers the calls of a reply, and
is over with a reply that calls nothing."""
