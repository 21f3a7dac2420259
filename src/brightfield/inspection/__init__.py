"""What is believed of one stack or skeleton of one's own, before it becomes a cell."""
