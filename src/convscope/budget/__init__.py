"""What a network costs: operations now, memory and time as well when they are asked for."""
