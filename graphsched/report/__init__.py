"""Plans and profiles as text, page, trace file and plot."""
