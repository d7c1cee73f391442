"""Whether a gating method is whole: its scores, penalty, schedule, optimizer and draw."""
