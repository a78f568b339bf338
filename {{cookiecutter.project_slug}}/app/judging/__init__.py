"""Models that judge answers, and whether they judge as people do."""
