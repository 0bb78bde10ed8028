"""What the tests share: labs, files, servers and engines that are made up."""
